#!/usr/bin/env bash
# Six small networks on handwritten digits: trained, measured, drawn. Run it again and it computes nothing twice.
# Usage: docs/demo.sh FOLDER   (make demo calls it with results/demo)
set -euo pipefail
out=${1:?give the folder for the runs, for example results/demo}
say() { printf '\n== %s\n' "$*"; }

say "1/4 training"
runs=()
for optimizer in sgd adam; do
    for batch in 32 512; do
        run=$out/$optimizer-b$batch
        lr=$([ "$optimizer" = sgd ] && echo 0.1 || echo 0.001)
        landscape train --data digits --model cnn --norm batch --optimizer "$optimizer" --lr "$lr" \
            --batch-size "$batch" --epochs 40 --seed 0 --out "$run"
        runs+=("$run")
    done
done
for skip in skip no-skip; do
    run=$out/resnet-$skip
    landscape train --data digits --model resnet --depth 14 --width 8 --norm batch "--$skip" --optimizer sgd --lr 0.1 \
        --batch-size 128 --epochs 15 --seed 0 --out "$run"
    runs+=("$run")
done

say "2/4 measuring"
landscape probe slice "${runs[@]}" --directions filter --resolution 41 --seeds 3 --executor processes
landscape probe surface "${runs[@]}" --directions filter --resolution 31 --executor processes
landscape probe surface "$out/sgd-b32" "$out/adam-b32" --directions pca --resolution 31 --executor processes
landscape probe spectrum "${runs[@]}" --k 5

say "3/4 drawing"
landscape figure "${runs[@]}" --format pdf,png --width single
landscape report "$out" --out "$out/report.html"

say "4/4 what came out"
landscape list "$out"
printf '\nOpen %s in a browser; pictures for papers are in %s/*/figures/.\n' "$out/report.html" "$out"
