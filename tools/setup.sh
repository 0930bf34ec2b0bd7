#!/usr/bin/env bash
# For `make setup`: installs the locked packages into .venv. With --dev, for `make setup-dev`: also what the tests need,
# and programs from the system's packages. Fast when repeated: it installs only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements.txt next="make demo, or: . .venv/bin/activate && scrapy crawl recent -a max_records=10"
[ "${1:-}" != --dev ] || lock=requirements-dev.txt next="make test, make lint"

fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }
is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
# Without pip it is incomplete, or was made for a Python that the system has replaced.
is_usable() { is_recent .venv/bin/python && .venv/bin/python -c 'import pip' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        if is_recent "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python 3.11 or newer"
    done
    fail "no Python 3.11 or newer was found; install one, or name it: make setup PYTHON=/path/to/python3"
}

# The stamp is a copy of the lock and is written last: without it the environment is incomplete.
# The developers' lock contains the users' lock, in the same versions.
stamp=.venv/requirements.installed
is_installed() { [ -x .venv/bin/parti ] && { cmp -s "$lock" "$stamp" || cmp -s requirements-dev.txt "$stamp"; }; }
if is_usable && is_installed; then
    echo "setup: .venv has all packages of $lock"
else
    echo "setup: installing the packages of $lock into .venv"
    if ! is_usable; then
        python=$(find_python) || exit 1
        rm -rf .venv
        "$python" -m venv .venv || fail "the virtual environment could not be made (on Debian: apt-get install python3-venv)"
    fi
    rm -f "$stamp"
    # Most of the modules are never used; Python compiles the others when they first are. The lock has all that its
    # packages need, so pip need not look for that. The project itself, so that `parti` is there, and `scrapy` knows it
    # outside of its folder.
    PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --no-compile --no-deps --disable-pip-version-check \
        --requirement "$lock" --editable . ||
        fail "the packages could not be installed; the lines above say why (the first set-up needs a network)"
    cp "$lock" "$stamp"
    echo "setup: done: $(.venv/bin/python --version), $(du -sm .venv | cut -f 1) MB. Next: $next"
fi
[ "$lock" = requirements-dev.txt ] || exit 0

# Chromium, and programs that tests run. If one cannot be installed, a message says what does not work without it.
has() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else has sudo && sudo --non-interactive "$@"; fi; }
apt_install() {
    has apt-get || return 1
    export DEBIAN_FRONTEND=noninteractive
    # The list of packages may be old or missing; it is fetched only if the first try fails.
    as_root apt-get install --yes --quiet --no-install-recommends "$1" >/dev/null 2>&1 ||
        { as_root apt-get update --quiet >/dev/null 2>&1 &&
            as_root apt-get install --yes --quiet --no-install-recommends "$1" >/dev/null 2>&1; }
}
need() { # program, package, what does not work without it, how else to get it
    has "$1" && return
    echo "setup: $1, with apt-get"
    apt_install "$2" || printf 'setup: %s could not be installed. Without it, %s. %s\n' "$1" "$3" "$4" >&2
}
need curl curl "the test of the specification's curl commands is skipped" "Install it with your system's packages."
has_postgresql() { has initdb || compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; }
if ! has_postgresql; then
    # Debian's package would make a server that starts at each boot.
    clusters=/etc/postgresql-common/createcluster.conf
    if [ ! -e "$clusters" ] && apt_install postgresql-common && [ -e "$clusters" ]; then
        as_root sed -i 's/^#*create_main_cluster *=.*/create_main_cluster = false/' "$clusters"
    fi
    need initdb postgresql "the tests of PostgreSQL are skipped" "Install PostgreSQL with your system's packages."
fi
need soffice libreoffice-calc-nogui "the tests that open a workbook are skipped" \
    "Install LibreOffice Calc with your system's packages."
# Skipped if the project finds one.
if [ -z "${PARTI_CHROMIUM:-}" ] &&
    ! .venv/bin/python -c 'from parti_scraper.browser.chromium import find_chromium; find_chromium("")' 2>/dev/null; then
    need chromium chromium "the spider site and PARTI_TRANSPORT=browser do not work, and their tests are skipped" \
        "Install it with your system's packages, or run .venv/bin/playwright install chromium."
fi

packages="wscat@6.1.0 axe-core@4.14.1" stamp=node_modules/npm.installed
no_packages="the tests of the specification's wscat command and of the report's accessibility fail"
need node nodejs "$no_packages" "Install Node.js 18 or newer."
if has node && ! echo "$packages" | cmp -s - "$stamp"; then
    need npm npm "$no_packages" "Install it with your system's packages."
    if has npm; then
        echo "setup: $packages, with npm, into node_modules"
        # Few retries, because most targets of the Makefile run this, also without network. All at once, because npm
        # removes what it is not asked for.
        # shellcheck disable=SC2086
        if npm install --prefix . --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error \
            --fetch-retries=1 --fetch-retry-mintimeout=1000 $packages >/dev/null; then
            echo "$packages" >"$stamp"
        else
            printf "setup: %s could not be installed; the lines above say why. Without them, %s.\n" "$packages" "$no_packages" >&2
        fi
    fi
fi
