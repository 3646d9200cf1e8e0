#!/usr/bin/env bash
# Make every picture of docs/gallery.md anew: a few minutes. Run it again and nothing is computed twice.
# Usage: docs/gallery.sh FOLDER   (of the runs, for example results/gallery)
set -euo pipefail
out=${1:?give the folder for the runs, for example results/gallery}
pictures=$(cd "$(dirname "$0")" && pwd)/pictures/gallery
mkdir -p "$pictures"

landscape train --data digits --model cnn --lr 0.05 --epochs 30 --flow-every 10 \
    --probes stability:every=15+gradient-noise:every=15 --out "$out/cnn"
landscape train --data digits --model mlp --depth 6 --activation tanh --init normal:0.6 --epochs 12 --flow-every 5 \
    --out "$out/saturated"
landscape train --data digits --model mlp --depth 4 --init he-normal+bias:-1 --lr 0.3 --epochs 12 --flow-every 5 \
    --out "$out/dead"
landscape probe gradient-noise "$out/cnn" --batches 128
landscape tune lr --data digits --model cnn --seeds 3 --out "$out/range"
landscape tune random --data digits --model mlp --epochs 5 --optimizer sgd,adam --lr 1e-4..3 --weight-decay 1e-6..1e-1 \
    --trials 40 --executor processes --out "$out/draws"
for seed in 0 1 2 3 4; do
    landscape train --data mnist1d --model cnn --width 8 --epochs 15 --seed $seed --lr 0.1 --momentum 0.9 \
        --out "$out/seeds/s$seed"
done
landscape ensemble "$out"/seeds/s* --out "$out/seeds/ensemble"
landscape race --toy saddle --lr 0.01 --out "$out/race"
landscape race --toy beale --sweep --out "$out/race"
for run in cnn saturated dead range draws seeds/ensemble race; do
    landscape figure "$out/$run" --format png
done

# by name of the picture: the only file of that ending in the run's figures
while read -r name run ending; do
    python - "$pictures/$name.png" "$out/$run"/figures/*"$ending".png <<'PYTHON'
import sys
from PIL import Image

target, *found = sys.argv[1:]
if len(found) != 1:
    sys.exit(f"{target}: expected one picture, found {found}")
image = Image.open(found[0]).convert("RGB")
image = image.resize((round(0.6 * image.width), round(0.6 * image.height)), Image.Resampling.LANCZOS)
image.save(target, optimize=True)  # a palette would merge the colours of thin lines
PYTHON
done <<'LIST'
learning-curves cnn training-learning-curves
gradient-flow cnn training-gradient-flow
backpropagated cnn training-backpropagated
signal-propagation cnn training-signal-propagation
update-ratios cnn training-update-ratios
path cnn training-path
activations saturated training-activations
saturated saturated training-lost-units
dead dead training-lost-units
stability cnn -stability-by-step
noise cnn -noise-by-step
noise-against-loss cnn -noise-against-loss
noise-by-layer cnn -noise-by-layer
lr-range range -lr-range
marginals draws -marginals
response-surface draws -response-surface
ensemble seeds/ensemble -growth
reliability seeds/ensemble -reliability
race race -paths
race-sweep race -steps-by-rate
LIST
