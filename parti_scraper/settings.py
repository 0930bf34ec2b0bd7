"""Scrapy's settings for this project: every override with the default beside it, and why.

The project's own settings begin with `PARTI_` and can be given as environment variables of the same name;
`-s NAME=VALUE` wins over both. Pipelines, extensions and the like are in `components`.
"""

from __future__ import annotations

import os

from parti_scraper.api import routes
from parti_scraper.redact import Secret

BOT_NAME = "parti_scraper"
SPIDER_MODULES = ["parti_scraper.spiders"]
NEWSPIDER_MODULE = "parti_scraper.spiders"
COMMANDS_MODULE = "parti_scraper.commands"

# --- The project's own -------------------------------------------------------------------------------------

# Scheme and host of the API, comma-separated.
PARTI_API_BASE_URLS = os.environ.get("PARTI_API_BASE_URLS", ",".join(routes.BASE_URLS))
# Sent as a Bearer token to these hosts. Only from the environment: others can read a command line, and Scrapy
# stores and shows settings; this one shows itself as `***`.
PARTI_TOKEN = Secret(os.environ.get("PARTI_TOKEN", ""))
# The address of the PostgreSQL database that `scrapy export postgresql://` means; environment only, likewise.
PARTI_DATABASE_URL = Secret(os.environ.get("PARTI_DATABASE_URL", ""))
# Who is told that something is wrong: addresses as Apprise has them; environment only, likewise, as they hold secrets.
PARTI_ALERT_URLS = Secret(os.environ.get("PARTI_ALERT_URLS", ""))
# What is asked as a run begins and ends, in healthchecks.io's form; environment only: who knows it can ask it too.
PARTI_PING_URL = Secret(os.environ.get("PARTI_PING_URL", ""))
# Where each crawl leaves metrics for node_exporter. Empty: nowhere.
PARTI_METRICS_DIR = os.environ.get("PARTI_METRICS_DIR", "")
# Addresses of the WebSocket that tells who goes live, comma-separated.
PARTI_WS_URL = os.environ.get("PARTI_WS_URL") or ",".join(routes.WS_URLS)
# Scheme and host of the site, whose pages the spider `site` and the transport `browser` open.
PARTI_SITE_URL = os.environ.get("PARTI_SITE_URL") or routes.SITE_URL
# How requests are sent: `http`, or `browser`, from within a page of the site in Chromium, where HTTP is refused.
PARTI_TRANSPORT = os.environ.get("PARTI_TRANSPORT") or "http"
# The program of Chromium. Empty: Debian's, one that is found by its name, or Playwright's own.
PARTI_CHROMIUM = os.environ.get("PARTI_CHROMIUM", "")
# After so long without a notification the connection is opened again: long silences are normal, but the server answers
# no pings, so nothing else tells a dead connection from a silent one.
PARTI_WS_IDLE_TIMEOUT = os.environ.get("PARTI_WS_IDLE_TIMEOUT") or "300"
# Seconds without a single page of any host, counted from a failure, after which all are given up, once each was asked
# again. Empty: 50, or 8 where no host could be reached from the start. With DOWNLOAD_TIMEOUT and the longest
# Retry-After that is obeyed (60 s) on top, a dead host ends a run within two minutes.
PARTI_RETRY_PATIENCE = os.environ.get("PARTI_RETRY_PATIENCE", "")
# Seconds before the first retry of a request, random from 0 on; doubled with each, up to 16 times.
# Empty: 0.5, or 0.005 for a server on this machine.
PARTI_RETRY_DELAY = os.environ.get("PARTI_RETRY_DELAY", "")
# What PARTI_OUTPUT_DIR and PARTI_STATE_DIR are relative to where they are no absolute paths. Empty: the working
# folder; of a job of scrapyd, whose working folder is scrapyd's, `parti_scraper` in the user's home folder.
PARTI_HOME = os.environ.get("PARTI_HOME", "")
# Fields of the specification, comma-separated, that the API is known not to send any more as specified.
PARTI_EXPECT_ABSENT = os.environ.get("PARTI_EXPECT_ABSENT", "")
# The share of records that may be set aside: with more than that, of at least 20, the run is not complete.
PARTI_MAX_REJECTED = os.environ.get("PARTI_MAX_REJECTED") or "0.05"
# Where runs leave their files: PARTI_OUTPUT_DIR/<spider>/<run_id>/.
PARTI_OUTPUT_DIR = os.environ.get("PARTI_OUTPUT_DIR") or "output"
# Where the ledger with their checkpoints is.
PARTI_STATE_DIR = os.environ.get("PARTI_STATE_DIR") or ".scrapy/parti"
# How far back an incremental run looks for what came late or was changed.
PARTI_INCREMENTAL_OVERLAP = os.environ.get("PARTI_INCREMENTAL_OVERLAP") or "48h"
# From when on `scrapy coverage` looks for gaps between ended livestreams. Empty: from the first that a run proves.
PARTI_COVERAGE_SINCE = os.environ.get("PARTI_COVERAGE_SINCE", "")
# What `scrapy health` watches, and at which age each is late: recent=2h,live=15m. Empty: all that has run often.
PARTI_HEALTH_MAX_AGE = os.environ.get("PARTI_HEALTH_MAX_AGE", "")

# The file that says which jobs are put into the queue of several machines when. Empty: none.
PARTI_SCHEDULE = os.environ.get("PARTI_SCHEDULE", "")
# How many crawls that have an end go on at a time, on all machines together.
PARTI_JOBS_AT_A_TIME = os.environ.get("PARTI_JOBS_AT_A_TIME") or "2"

# Whether the records of a page go through pipelines and feeds together, which takes a fourth of the time, or one by
# one, as in any Scrapy project.
PARTI_BATCHING = os.environ.get("PARTI_BATCHING") or "true"

# --- What is sent ------------------------------------------------------------------------------------------

# Default: Scrapy's own name. The specification sends a desktop Chrome's.
USER_AGENT = routes.USER_AGENT
# Default: Accept for HTML, Accept-Language. The specification sends these and no others.
DEFAULT_REQUEST_HEADERS = routes.HEADERS
# Default: Scrapy's own, which puts the address of the page before into Referer, where the API expects the site.
REFERRER_POLICY = "no-referrer"
# Default: True. An answer of the API that is a web page is a challenge, which is not to be followed.
METAREFRESH_ENABLED = False
# Default: True. The specification sends no cookies, and a session must not change what is served.
COOKIES_ENABLED = False

# --- Politeness --------------------------------------------------------------------------------------------
# `PartiSpider.update_settings` lifts delay and AutoThrottle for servers on this machine.

# The default is False.
ROBOTSTXT_OBEY = True
# The defaults are 16 and 8.
CONCURRENT_REQUESTS = 8
CONCURRENT_REQUESTS_PER_DOMAIN = 4
# Seconds; default: 0. Never 0: Scrapy 2.19 does not hold the cap per host without a delay.
DOWNLOAD_DELAY = 0.25
# Default: False. Follows the server's latency, from the start delay on, never below DOWNLOAD_DELAY.
AUTOTHROTTLE_ENABLED = True
# In seconds. The defaults are 5 and 60.
AUTOTHROTTLE_START_DELAY = 0.5
AUTOTHROTTLE_MAX_DELAY = 30.0
# The default is 1.
AUTOTHROTTLE_TARGET_CONCURRENCY = 2.0
# Seconds; default: 180. A page takes a second or two.
DOWNLOAD_TIMEOUT = 30
# Bytes; default: 1 GiB and 32 MiB. A page of 1,000 records is about 1 MB.
DOWNLOAD_MAXSIZE = 64 * 1024 * 1024
DOWNLOAD_WARNSIZE = 16 * 1024 * 1024

# Default: one that spreads the requests over many hosts; here there is one at a time.
SCHEDULER_PRIORITY_QUEUE = "scrapy.pqueues.ScrapyPriorityQueue"

# --- Failures ----------------------------------------------------------------------------------------------

# Default: Scrapy's own, on Twisted, which know no pause and take twice the time.
DOWNLOAD_HANDLERS = {
    "http": "parti_scraper.network.http.HttpDownloadHandler",
    "https": "parti_scraper.network.http.HttpDownloadHandler",
}

# --- Safety ------------------------------------------------------------------------------------------------

# Default: False, which accepts any certificate.
DOWNLOAD_VERIFY_CERTIFICATES = True
# Default: True. Both run Python for any client.
REMOTE_CONTROL_ENABLED = False
TELNETCONSOLE_ENABLED = False

# --- Records -----------------------------------------------------------------------------------------------

# Default: 2083. Requests with a longer address are dropped, with only a line in the log.
URLLENGTH_LIMIT = 0
# Default: 100, which makes as many tasks for every page. The pipelines never wait, so one is enough; and with
# one, the records of a page are processed before the spider's next request.
CONCURRENT_ITEMS = 1
# Default: none, which writes JSON in ASCII with escapes.
FEED_EXPORT_ENCODING = "utf-8"

# --- Logs --------------------------------------------------------------------------------------------------

# Default: DEBUG, a line for every request and record.
LOG_LEVEL = "INFO"

# --- Components --------------------------------------------------------------------------------------------
# The project's own are in `components`. These are there for settings that import these and add to them.

DOWNLOADER_MIDDLEWARES: dict[str, int | None] = {}
EXTENSIONS: dict[str, int | None] = {}
FEED_EXPORTERS: dict[str, str | None] = {}
ITEM_PIPELINES: dict[str, int | None] = {}
SPIDER_MIDDLEWARES: dict[str, int | None] = {}
