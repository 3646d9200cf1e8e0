#!/usr/bin/env bash
# Six small networks on handwritten digits: trained, measured, drawn. Run it again and it computes nothing twice.
# Usage: docs/demo.sh FOLDER   (make demo calls it with results/demo)
set -euo pipefail
out=${1:?give the folder for the runs, for example results/demo}
say() { printf '\n== %s\n' "$*"; }

# Two commands at a time, one a core; what one of them fails with ends the demo.
jobs=()
start() { "$@" & jobs+=($!); [ ${#jobs[@]} -lt 2 ] || finish; }
finish() { for job in ${jobs[@]+"${jobs[@]}"}; do wait "$job"; done; jobs=(); }
trap 'kill ${jobs[@]+"${jobs[@]}"} 2>/dev/null || true' EXIT

say "1/4 training"
runs=()
for batch in 32 512; do
    for optimizer in sgd adam; do
        lr=$([ "$optimizer" = sgd ] && echo 0.1 || echo 0.001)
        runs+=("$out/$optimizer-b$batch")
        start landscape train --data digits --model cnn --norm batch --optimizer "$optimizer" --lr "$lr" \
            --batch-size "$batch" --epochs 40 --seed 0 --out "$out/$optimizer-b$batch"
    done
done
for skip in skip no-skip; do
    runs+=("$out/resnet-$skip")
    start landscape train --data digits --model resnet --depth 14 --width 8 --norm batch "--$skip" \
        --optimizer sgd --lr 0.1 --batch-size 128 --epochs 15 --seed 0 --out "$out/resnet-$skip"
done
finish

say "2/4 measuring"
landscape probe slice "${runs[@]}" --directions filter --resolution 41 --seeds 3 --executor processes
landscape probe surface "${runs[@]}" --directions filter --resolution 51 --sampling adaptive --executor processes
landscape probe surface "$out/sgd-b32" "$out/adam-b32" --directions pca --resolution 31 --executor processes
for run in "${runs[@]}"; do start landscape probe spectrum "$run" --k 5; done
finish
start landscape probe sharpness "$out/sgd-b32"  # one command a run at a time: whoever writes into it holds its lock
start landscape probe density "$out/adam-b32"
start landscape probe layers "$out/sgd-b32"
finish

say "3/4 drawing"
landscape figure "${runs[@]}" --format pdf,png --width single
landscape figure "$out/resnet-skip" "$out/resnet-no-skip" --side-by-side --format pdf,png --width double
landscape report "$out" --out "$out/report.html"

say "4/4 what came out"
landscape list "$out"
landscape diagnose "$out/sgd-b32"
printf '\nOpen %s in a browser; pictures for papers are in %s/*/figures/.\n' "$out/report.html" "$out"
