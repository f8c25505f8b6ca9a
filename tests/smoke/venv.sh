#!/usr/bin/env bash
# Makes FOLDER a virtual environment of REQUIREMENTS (those beside this script), unless it is one already, and prints its
# Python.
set -euo pipefail
folder=$1
wanted=${2:-$(dirname "${BASH_SOURCE[0]}")/requirements.txt}
if ! cmp -s "$wanted" "$folder/requirements.txt"; then
  python3 -m venv --clear "$folder" >&2
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$wanted" >&2
  cp "$wanted" "$folder/requirements.txt"
fi
echo "$folder/bin/python"
