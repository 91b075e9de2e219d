#!/usr/bin/env bash
# Writes tests/golden/COMMIT/: small runs, weights and recipes by an earlier build, for tests/api/test_old_files.py.
#   git worktree add ../old COMMIT && (cd ../old && uv sync)
#   tools/write_old_files.sh ../old
# The networks are tiny and are trained for seconds. A run keeps what the tests need; two are cut back to an earlier
# checkpoint, as if they had been killed, and keep the log of the whole run as whole_log.jsonl.
set -euo pipefail
old="$(realpath "$1")"
commit="$(git -C "$old" rev-parse --short HEAD)"
target="$(realpath "$(dirname "$0")/..")/tests/golden/$commit"
work="$(mktemp -d)"
cd "$work"
export PATH="$old/.venv/bin:$PATH" TAILSEG_HOME="$work/home" OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
export PYTHONPATH="$target"

network=(--model.fpn.channels=4 --model.box.hidden=8 --model.box.rois-per-image=16 --model.mask.channels=4
    --model.rpn.anchors-per-image=32 --model.test.max-detections=10
    --data.short-sides=64 --data.test-short-side=64 --data.batch-size=8 --data.workers=0 --run.log-every=1 --no-report)
resnet=(--model.backbone.weights=none --model.backbone.frozen-stages=0 --model.backbone.base-width=2)
tiny=(--data.train=tiny_tail:test --data.val=tiny_tail:test)
short=(--optim.epochs=2 --optim.steps=1 --optim.warmup-iterations=2)
long=(--optim.epochs=4 --optim.steps=3 --optim.warmup-iterations=3 --run.checkpoint-steps=1 --run.keep-checkpoints=100)

train() { # NAME RECIPE OPTIONS
    local name="$1" recipe="$2"
    shift 2
    tailseg train "$recipe" "${network[@]}" "$@" --run.out="runs/$name"
}

cut_back() { # NAME STEP: what a run has that was killed after this step
    cp "runs/$1/log.jsonl" "runs/$1/whole_log.jsonl"
    mv "runs/$1/results.json" "runs/$1/whole_results.json"
    mkdir killed
    mv "runs/$1/checkpoints/step_$(printf %07d "$2").pt" killed/
    rm -r "runs/$1/checkpoints" "runs/$1/metrics.json"
    mv killed "runs/$1/checkpoints"
}

train gumbel_parity tiny_gumbel "${resnet[@]}" "${tiny[@]}" "${short[@]}" --loss.parity
train started tiny_class_relative "${resnet[@]}" "${tiny[@]}" "${short[@]}" --run.start-from=runs/gumbel_parity/checkpoints/best.pt
train gol_normalized old_recipes:gol_normalized "${resnet[@]}" "${tiny[@]}" "${short[@]}"
train own_loss old_recipes:own_loss "${resnet[@]}" "${tiny[@]}" "${short[@]}"
train cascade tiny_cascade_softmax "${resnet[@]}" "${tiny[@]}" "${short[@]}"
train htc tiny_htc_gumbel "${resnet[@]}" "${tiny[@]}" "${short[@]}"

# Resumed: SGD with momentum and a loss that counts; AdamW with a moving average and accumulated gradients.
train killed_sgd tiny_eql_v2 "${resnet[@]}" "${tiny[@]}" "${long[@]}"
cut_back killed_sgd 5
train killed_adamw old_recipes:adamw_swin "${tiny[@]}" --run.checkpoint-steps=1 --run.keep-checkpoints=100
cut_back killed_adamw 5

# A user's own file, a part of it held out; and the same validated on the file itself, trained until it has an AP.
mkdir my
cp home/tiny_tail-test-*/train.json my/
cp -r home/tiny_tail-test-*/train my/train
train held_out my/train.json "${resnet[@]}" "${short[@]}"
train learned my/train.json "${network[@]}" --data.val=my/train.json --model.backbone.weights=none \
    --model.backbone.base-width=4 --model.fpn.channels=8 --model.box.hidden=32 --data.repeat-threshold=0 \
    --optim.epochs=150 --optim.steps 100 130 --optim.lr=0.12 --run.checkpoint-every=150 --run.eval-every=0 --run.keep-checkpoints=1

# Weights: to mmdetection's layout and back.
tailseg convert runs/htc htc.pth --to mmdet
tailseg convert runs/gumbel_parity gumbel.pth --to mmdet
cat > converted.py <<'P'
from pathlib import Path
from tailseg.recipes.saved import load_recipe
def recipe():
    return load_recipe(Path("runs/gumbel_parity/recipe.json"))
P
PYTHONPATH="$PYTHONPATH:." tailseg convert gumbel.pth runs/converted --recipe converted:recipe --classes my/train.json

for run in runs/*; do
    rm -rf "$run"/{tensorboard,lock,report.html,predictions}
    rm -f "$run/checkpoints/best.pt" # the same weights as the last one's
    last="$(find "$run/checkpoints" -name 'step_*.pt' | sort | tail -1)"
    find "$run/checkpoints" -name 'step_*.pt' ! -path "$last" -delete
done
# The larger network without the optimizer's state, and a calibration: `tailseg calibrate` finds none for so few images.
python - <<'P'
from pathlib import Path
from tailseg.training.checkpoint import load, save_weights
from tailseg.training.recalibration import FILE, Calibration, Setting, save
run = Path("runs/learned")
(file,) = run.glob("checkpoints/step_*.pt")
save_weights(load(file), run / "checkpoints/converted.safetensors")
file.unlink()
save(Calibration(Setting("NorCal", 0.6)), run / FILE)
P
python - <<'P'
import json
from pathlib import Path
from tailseg.recipes import RECIPES
from tailseg.recipes.saved import to_plain
Path("recipes.json").write_text(json.dumps({name: to_plain(make()) for name, make in RECIPES.items()}))
P
tar --sort=name --owner=0 --group=0 --mtime=2026-01-01 -cf - runs recipes.json my/train.json | xz -9e > "$target/files.tar.xz"
grep -rl "$work\|$HOME" runs my/train.json recipes.json && echo "these files hold a path of this machine" && exit 1
ls -l "$target"
rm -r "$work"
