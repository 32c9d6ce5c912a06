# Sourced by the scripts beside it: names, and two small helpers. Nothing here starts anything.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '==> %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# npm_ci DIR: installs exactly what DIR's lock file names, and does nothing if that is there already.
npm_ci() {
  local dir=$1 stamp=$1/node_modules/.installed-lock.json
  cmp -s "$dir/package-lock.json" "$stamp" && return
  say "npm ci in ${dir#"$root"/}"
  (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) &&
    cp "$dir/package-lock.json" "$stamp"
}
