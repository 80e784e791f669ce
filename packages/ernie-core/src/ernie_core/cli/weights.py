"""``ernie weights inspect PATH | verify PATH --against PATH | export CHECKPOINT OUT --format diffusers | lora ...``. Torch is imported when it runs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ernie_core.cli.app import Parser

if TYPE_CHECKING:
    from ernie_core.cli.app import App

DIFFERENT = 1


def main(argv: list[str], app: App) -> int:
    if argv[:1] == ["lora"]:
        from ernie_core.cli import lora

        return lora.main(argv[1:], app)
    parser = Parser("weights", "Look into weight files, compare them, or export them; LoRA files too.")
    add = parser.add_verbs()
    inspect = add("inspect", "what a file, model folder, pipeline, run or checkpoint holds")
    inspect.add_argument("path", metavar="PATH")
    inspect.add_argument("--tensors", action="store_true", help="list every tensor")
    verify = add("verify", "compare names, shapes, types and values of two sets of weights; exit code 1 if they differ")
    verify.add_argument("path", metavar="PATH")
    verify.add_argument("--against", required=True, metavar="PATH")
    verify.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X", help="largest absolute difference that counts as equal (default: 0)"
    )
    export = add("export", "write a folder that another program reads")
    export.add_argument("checkpoint", metavar="CHECKPOINT", help="a run or a checkpoint")
    export.add_argument("out", metavar="OUT", help="a folder that does not exist yet")
    export.add_argument("--format", choices=("diffusers",), required=True)
    export.add_argument(
        "--transformer-only", action="store_true", help="without codec and prompt encoder, whatever they are; for use with prompt_embeds"
    )
    export.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the transformer (default: float32)")
    add("lora", "inspect, convert, export, merge and extract LoRA files")
    for verb in (inspect, verify, export):
        verb.add_argument("--raw", action="store_true", help="of our checkpoints, the trained weights instead of their moving average")
        verb.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    return {"inspect": _inspect, "verify": _verify, "export": _export}[options.verb](options, app)


def _inspect(options: argparse.Namespace, app: App) -> int:
    from ernie_core.weights.io import facts, open_components

    summary = {}
    for component, source in open_components(options.path, raw=options.raw).items():
        tensors = facts(source)
        kinds = sorted({fact.dtype for fact in tensors.values()})
        summary[component or "weights"] = {
            "where": source.where,
            "tensors": len(tensors),
            "parameters": sum(fact.numel for fact in tensors.values()),
            "dtypes": kinds,
            **({"shapes": {name: [fact.dtype, *fact.shape] for name, fact in tensors.items()}} if options.tensors else {}),
        }
    if options.json:
        app.out(json.dumps(summary, indent=1))
        return 0
    for name, part in summary.items():
        app.out(f"{name}: {part['parameters']:,} parameters in {part['tensors']} tensors, {', '.join(part['dtypes'])}; {part['where']}")
        for tensor, (dtype, *shape) in part.get("shapes", {}).items():
            app.out(f"  {tensor} {dtype} {shape}")
    return 0


def _verify(options: argparse.Namespace, app: App) -> int:
    from ernie_core.weights.compare import LISTED, compare_paths

    found = compare_paths(options.path, options.against, tolerance=options.tolerance, raw=options.raw)
    equal = all(part.equal for part in found)
    if options.json:
        parts = {
            part.component or "weights": {
                "equal": part.equal,
                "same": part.same,
                "different": len(part.differences),
                "differences": part.differences[:LISTED],
                "max_abs_difference": part.max_abs_difference,
                "sha256": list(part.sha256),
            }
            for part in found
        }
        app.out(json.dumps({"equal": equal, "components": parts}, indent=1))
    else:
        for part in found:
            app.out("\n".join(part.lines()))
    return 0 if equal else DIFFERENT


def _export(options: argparse.Namespace, app: App) -> int:
    import torch

    from ernie_core.weights.diffusers import export_diffusers

    exported = export_diffusers(
        options.checkpoint,
        options.out,
        host=app.host,
        transformer_only=options.transformer_only,
        raw=options.raw,
        dtype=torch.bfloat16 if options.dtype == "bfloat16" else torch.float32,
    )
    for note in exported.notes:
        app.err(f"note: {note}")
    if options.json:
        app.out(json.dumps({"out": str(exported.folder), "files": list(exported.files), "notes": list(exported.notes)}))
    else:
        app.out(f"{exported.folder}: {len(exported.files)} files")
    return 0
