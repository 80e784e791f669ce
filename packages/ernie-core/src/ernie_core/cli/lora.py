"""``ernie weights lora inspect | convert | export | merge | extract``: adapters as files. Torch is imported when it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core.cli.app import Parser

if TYPE_CHECKING:
    from ernie_core.cli.app import App

FORMATS = ("diffusers", "comfyui")
DTYPES = ("float32", "bfloat16", "float16")


def main(argv: list[str], app: App) -> int:
    parser = Parser("weights lora", "Look into LoRA files, convert them, merge them into a model, or extract one.")
    add = parser.add_verbs()
    inspect = add("inspect", "format, ranks, scales and targets of a LoRA file")
    inspect.add_argument("file", metavar="FILE")
    convert = add("convert", "write a LoRA of diffusers, ComfyUI, peft or kohya for diffusers or ComfyUI")
    convert.add_argument("file", metavar="IN")
    export = add("export", "write the adapter that a run trained")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="a run or a checkpoint")
    merge = add("merge", "write a copy of a model folder with a LoRA added to its weights")
    merge.add_argument("--base", required=True, metavar="FOLDER", help="a diffusers pipeline or its transformer folder")
    merge.add_argument("--lora", required=True, metavar="FILE")
    merge.add_argument("--out", required=True, metavar="FOLDER", help="a folder that does not exist yet")
    merge.add_argument("--strength", type=float, default=1.0, metavar="S", help="multiplies the change (default: 1)")
    extract = add("extract", "write the best LoRA of a rank for the difference of two models")
    extract.add_argument("--base", required=True, metavar="PATH", help="a pipeline, transformer folder, run or checkpoint")
    extract.add_argument("--tuned", required=True, metavar="PATH", help="the same, tuned")
    extract.add_argument("--rank", required=True, type=int, metavar="N")
    extract.add_argument(
        "--targets", nargs="+", default=(), metavar="NAME", help="last parts of names (default: all linear maps that differ)"
    )
    extract.add_argument("--leave-out-others", action="store_true", help="pass over changed norms, biases and other linear maps")
    extract.add_argument("--out", required=True, metavar="FILE")
    for verb in (convert, export):
        verb.add_argument("out", metavar="OUT", help="a .safetensors file that does not exist yet")
    for verb, default in ((convert, None), (export, None), (extract, "diffusers")):
        verb.add_argument("--format", choices=FORMATS, required=default is None, default=default)
        verb.add_argument("--dtype", choices=DTYPES, default="float32", help="of the file (default: float32)")
    for verb in (export, extract):
        verb.add_argument("--raw", action="store_true", help="of our checkpoints, the trained weights instead of their moving average")
    for verb in (inspect, convert, export, merge, extract):
        verb.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    verbs = {"inspect": _inspect, "convert": _convert, "export": _export, "merge": _merge, "extract": _extract}
    return verbs[options.verb](options, app)


def _inspect(options: argparse.Namespace, app: App) -> int:
    from ernie_core.weights.lora import read_lora

    file = read_lora(options.file)
    kinds: dict[str, int] = {}
    for name in file.factors:
        kind = name.partition("layers.")[2].partition(".")[2] or name
        kinds[kind] = kinds.get(kind, 0) + 1
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for f in file.factors.values() for t in (f.lora_A, f.lora_B)})
    scales = sorted({f.scale for f in file.factors.values()})
    summary: dict[str, Any] = {
        "where": file.where,
        "format": file.format,
        "ranks": list(file.ranks),
        "alphas": list(file.alphas),
        "scales": scales,
        "parameters": sum(f.lora_A.numel() + f.lora_B.numel() for f in file.factors.values()),
        "dtypes": dtypes,
        "targets": kinds,
        "metadata": dict(file.metadata),
    }
    if options.json:
        app.out(json.dumps(summary, indent=1))
        return 0
    app.out(
        f"{file.format} LoRA: rank {_span(file.ranks)}, scale {_span(scales)}, {summary['parameters']:,} parameters, {', '.join(dtypes)}"
    )
    for kind, count in sorted(kinds.items()):
        app.out(f"  {kind}: {count}")
    for key, value in sorted(file.metadata.items()):
        app.out(f"  {key} = {value if len(value) <= 200 else value[:200] + '...'}")
    return 0


def _convert(options: argparse.Namespace, app: App) -> int:
    import torch

    from ernie_core.weights.lora import DIFFUSERS_CONFIG, read_lora, write_lora

    file = read_lora(options.file)
    facts = {key: value for key, value in file.metadata.items() if key not in (DIFFUSERS_CONFIG, "format")}
    facts["converted_from"] = file.format
    write_lora(options.out, file.factors, format=options.format, facts=facts, dtype=getattr(torch, options.dtype))
    return _written(options, app, len(file.factors), ())


def _export(options: argparse.Namespace, app: App) -> int:
    import torch

    from ernie_core.sampling.fixed import fixed_in_state, in_words, to_stored
    from ernie_core.train.checkpoint import is_own_checkpoint, open_checkpoint
    from ernie_core.weights.deployed import deployed_adapter
    from ernie_core.weights.lora import save_lora

    checkpoint = open_checkpoint(options.checkpoint)
    adapter = deployed_adapter(checkpoint, raw=options.raw, host=app.host)
    base = checkpoint.state["config"]["model"].get("init")
    facts = {"exported_from": checkpoint.directory.name, "step": str(checkpoint.step)} | ({"base": Path(base).name} if base else {})
    fixed, notes = fixed_in_state(checkpoint.state, str(checkpoint.directory)), checkpoint.notes
    if fixed is not None:
        facts["sampling"] = json.dumps(to_stored(fixed))
        notes += (in_words(fixed),)
    save_lora(options.out, adapter, format=options.format, facts=facts, dtype=getattr(torch, options.dtype))
    if base and is_own_checkpoint(base):
        notes += (
            f"this LoRA changes the weights that {base} trained: on another model it means something else. One against the model that {base} "
            "began with is made by `ernie weights lora extract`",
        )
    return _written(options, app, len(adapter.targets), notes)


def _written(options: argparse.Namespace, app: App, targets: int, notes: tuple[str, ...]) -> int:
    for note in notes:
        app.err(f"note: {note}")
    if options.json:
        app.out(json.dumps({"out": options.out, "format": options.format, "targets": targets, "notes": list(notes)}))
    else:
        app.out(f"{options.out}: {options.format} LoRA of {targets} linear maps, scale 1")
    return 0


def _merge(options: argparse.Namespace, app: App) -> int:
    from ernie_core.weights.lora_folders import merge_folder

    count = merge_folder(options.base, options.lora, options.out, strength=options.strength)
    if options.json:
        app.out(json.dumps({"out": options.out, "merged": count, "strength": options.strength}))
    else:
        app.out(f"{options.out}: {count} linear maps merged at strength {options.strength:g}")
    return 0


def _extract(options: argparse.Namespace, app: App) -> int:
    import torch

    from ernie_core.cli.app import UsageError
    from ernie_core.weights.lora_folders import extract_lora

    if options.rank < 1:
        raise UsageError(f"ernie weights lora extract: --rank {options.rank}: expected at least 1")
    found = extract_lora(
        options.base,
        options.tuned,
        options.out,
        rank=options.rank,
        targets=tuple(options.targets),
        leave_out_others=options.leave_out_others,
        format=options.format,
        dtype=getattr(torch, options.dtype),
        raw=options.raw,
        host=app.host,
    )
    if options.json:
        app.out(json.dumps({"out": options.out, "targets": len(found.targets), "left_out": found.left_out, "others": list(found.others)}))
        return 0
    app.out(f"{options.out}: rank {options.rank} of {len(found.targets)} linear maps holds {1 - found.left_out:.2%} of the squared change")
    if found.others:
        app.err(f"note: {len(found.others)} changed tensors were left out, such as {found.others[0]}")
    return 0


def _span(values: Any) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
