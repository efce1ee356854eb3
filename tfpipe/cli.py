"""`tfpipe SUBCOMMAND ...`: the same commands as `python -m tfpipe.SUBCOMMAND` and `python -m serving`."""

import difflib
import importlib
import signal
import sys

from tfpipe.interruption import SERVICE_STOPPED, end_at_signals

_COMMANDS = {
    "train": ("tfpipe.train", "train a model, on one process or under horovodrun"),
    "lr-find": ("tfpipe.lr_find", "suggest training.learning_rate by a short test over many"),
    "convert": ("tfpipe.convert.__main__", "convert a trained model to ONNX at fp32, fp16 and int8, and prove it"),
    "verify": ("tfpipe.verify.__main__", "measure every hop of a bundle, or of a running service, again"),
    "tune": ("tfpipe.tune", "find the fastest way to run a bundle on this machine"),
    "predict": ("tfpipe.predict", "score images or texts in bulk"),
    "export": ("tfpipe.targets.command", "write a bundle for TensorFlow Serving, Triton, MLflow or plain ONNX"),
    "data": ("tfpipe.data.__main__", "validate or pack a data set, make a tokenizer"),
    "bench": ("tfpipe.bench.__main__", "send a load to a service: throughput, latencies, the highest rate it holds"),
    "monitor": ("tfpipe.monitor.__main__", "compare what a service is asked with what its models were trained on"),
    "serve": ("serving.__main__", "answer over HTTP"),
    "registry": ("tfpipe.rollout.command", "say which version of a model answers: promote, split, canary, rollback"),
    "keys": ("serving.keys_command", "make API keys for the service"),
    "doctor": ("tfpipe.doctor.__main__", "check what is installed, and say what mends what is missing"),
}


def main() -> int:
    """Pass the remaining arguments to the sub-command; returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {command:10s}{meaning}" for command, (_, meaning) in _COMMANDS.items()]
        print("usage: tfpipe COMMAND ...\n\ncommands (each with --help):\n" + "\n".join(lines))
        return 0
    if name == "--version":
        from tfpipe import __version__

        print(__version__)
        return 0
    if name not in _COMMANDS:
        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"tfpipe: expected a command of {', '.join(_COMMANDS)}; received {name!r}.{hint}", file=sys.stderr)
        return 2
    before = end_at_signals(SERVICE_STOPPED, exit_code=0) if name == "serve" else end_at_signals()
    try:
        module = importlib.import_module(_COMMANDS[name][0])
        return int(module.main(sys.argv[2:]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
