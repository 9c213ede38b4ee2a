#!/usr/bin/env bash
# Turn envs/*.in into lock files (exact versions with hashes, no index addresses) and the conda files made of the same
# pins. Needs uv.
set -euo pipefail
cd "$(dirname "$0")"

lock() {
    uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
        --no-header --no-annotate --no-emit-index-url "$@"
}

lock main.in -o main.txt
for cuda in cuda12 cuda13; do
    lock main.in "$cuda.in" --constraints main.txt -o "$cuda.txt"
done
lock benchmarks.in -o benchmarks.txt
lock --no-deps neural-tangents.in -o neural-tangents.txt

for name in main neural-tangents; do
    {
        echo "# Made by envs/lock.sh from $name.txt; for snakemake --sdm conda. Not solved or tested by us."
        echo "channels: [conda-forge, nodefaults]"
        echo "dependencies:"
        echo "  - python=3.11"
        echo "  - pip"
        echo "  - pip:"
        sed -n -E 's/^([A-Za-z0-9._-]+==[^ ]+)( ; (.*[^ ]))? \\$/      - \1\2/p' "$name.txt" | sed "s/ ; \(.*\)$/; \1/; s/- \(.*\)/- \"\1\"/"
    } >"$name.yaml"
done
