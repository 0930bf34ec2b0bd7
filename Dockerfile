# The commands of parti_scraper in an image, for docs/deployment.md, "Containers".
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/parti
COPY requirements.txt requirements-dev.txt ./
RUN pip --python /opt/parti/bin/python install --no-cache-dir --requirement requirements.txt
COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY parti_scraper parti_scraper
# Workers need `jobs`; `s3` and others are extras of pyproject.toml, too. In locked versions.
ARG EXTRAS=jobs
RUN pip --python /opt/parti/bin/python install --no-cache-dir --constraint requirements-dev.txt ".[$EXTRAS]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin parti \
    && install --directory --owner parti --group parti --mode 750 /data
COPY --from=build /opt/parti /opt/parti
COPY --chmod=755 deploy/every /usr/local/bin/every
COPY deploy/schedule.toml /etc/parti/schedule.toml
ENV PATH=/opt/parti/bin:$PATH PYTHONUNBUFFERED=1 PARTI_HOME=/data
USER 10001
WORKDIR /data
# Runs in output/, state in .scrapy/parti/, and the dataset, if it is exported into dataset/.
VOLUME /data
# For Docker, what is not healthy ends with 1.
HEALTHCHECK --interval=10m --timeout=2m --start-period=10m CMD ["sh", "-c", "parti health || exit 1"]
CMD ["parti", "--help"]
