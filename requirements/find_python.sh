#!/bin/sh
# Prints the path of a Python that can hold our environments, or says on standard error what to install.
# Usage: find_python.sh [triton]    "triton" asks for what the embedded Triton needs beyond that.
# PYTHON=/path/to/python takes that one and no other.
set -eu

complain() {
  echo "trireel: $1" >&2
  exit 1
}

# Some launchers (pyenv's shims) are on PATH and refuse to run, so each candidate is asked.
fits() {
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

python=
for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
  if fits "$candidate"; then
    python=$("$candidate" -c 'import sys; print(sys.executable)')
    break
  fi
done
if [ -z "$python" ]; then
  [ -z "${PYTHON:-}" ] || complain "PYTHON=$PYTHON is no Python 3.11 or 3.12."
  complain "Python 3.11 or 3.12 is missing. Debian 12: apt-get install python3.11-venv libpython3.11;\
 Ubuntu 24.04: apt-get install python3.12-venv libpython3.12; one installed elsewhere: make PYTHON=/path/to/python3.11 ..."
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  complain "$python cannot make environments: apt-get install python$version-venv"

if [ "${1:-}" = triton ]; then
  elsewhere="elsewhere Triton runs in a container, see docs/deployment.md"
  [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    complain "the embedded Triton needs Linux on x86-64, this is $(uname -s) on $(uname -m); $elsewhere."
  "$python" -c 'import os, sys
name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
sys.exit(name != "glibc" or tuple(map(int, version.split(".")))[:2] < (2, 35))' 2>/dev/null ||
    complain "the embedded Triton needs glibc 2.35 or later (Debian 12, Ubuntu 22.04); $elsewhere."
  # Triton's Python backend is linked with it; Debian leaves it out of the interpreter's own package.
  "$python" -c 'import sys, sysconfig, pathlib
library = pathlib.Path(*sysconfig.get_config_vars("LIBDIR", "INSTSONAME"))
sys.exit(".so" not in library.name or not library.exists())' ||
    complain "$python comes without the shared library libpython$version.so.1.0: apt-get install libpython$version\
 (a Python built by pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force $version)"
fi
echo "$python"
