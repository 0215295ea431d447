#!/usr/bin/env bash
# What one card shows in about eight minutes. From the root of the repository:
#
#     bash tests/on_a_card.sh OUT
#
# OUT gets a JSON file and a table a measurement, and the tests' lines (tests.txt); each stands there as soon as it is
# known. Each part has a limit of its own, after which it is killed: asked to end, vitft would save first. The
# measurements come first, alone on the card, as their numbers are what it is lent for.
set -u
out=${1:?a folder for what is found}
mkdir -p "$out"
export VITFT_CACHE=${VITFT_CACHE:-$out/cache}

measure() { # name limit words...
    local name=$1 limit=$2
    shift 2
    timeout -s KILL "$limit" python3 -m vitft bench --from-scratch --set crop=none --against bare,compiled,timm --rounds 3 \
        --save "$out/$name.json" "$@" >"$out/$name.txt" 2>>"$out/errors.txt" || echo "$name: $?" >>"$out/errors.txt"
    cat "$out/$name.txt"
}

measure b16-224 75 -m timm:vit_base_patch16_224 -r 224 -b 64 --micro-batch 64 --steps 10 --images 1024
measure l16-384 90 -m timm:vit_large_patch16_224 -r 384 -b 64 --micro-batch 64 --steps 4 --images 512
measure h14-518 100 -m timm:vit_huge_patch14_224 -r 518 -b 32 --micro-batch 16 --steps 2 --images 0
# Side by side: each test is some processes of its own, which mostly import. H/14 needs the card for itself.
timeout -s KILL 240 python3 -m pytest -n 4 -q -rA -m gpu tests/test_gpu.py -k "not h14" >"$out/tests.txt" 2>&1
timeout -s KILL 120 python3 -m pytest -n 0 -q -rA -m gpu tests/test_gpu.py -k h14 >>"$out/tests.txt" 2>&1
grep -E "^(PASSED|FAILED|SKIPPED|ERROR)" "$out/tests.txt"
