"""Train a parameter-shared transformer: python train.py [--config configs/NAME.toml] [--model.width 256 ...]."""

import sys
from pathlib import Path

from jaxode.config import Config, UserError, parse


def main() -> int:
    """Parse, train, show loss against depth, say where the result is. Returns the exit code."""
    config = parse(Config)
    if config.resume:
        config = parse(Config, base=Path(config.out) / "config.toml")

    from jaxode.evaluation import depth_sweep, save_sweep
    from jaxode.training import train

    result = train(config)
    folder = result.run.path
    if result.validation is None:
        print(f"stopped at update {result.step}; go on with: python train.py --resume --out {folder}", file=sys.stderr)
        return 128 + (result.stopped_by or 0)
    print(f"validation loss {result.validation.nats_per_token:.4f} nats per token after {result.step} updates")
    if config.train.sweep:
        batches = result.data.validation(config.train.batch_size)
        sweep = depth_sweep(
            result.architecture,
            result.params,
            batches,
            document_mask=config.data.document_mask,
            bytes_per_token=result.data.bytes_per_token("validation"),
            progress=True,
        )
        print(save_sweep(folder, sweep))
    print(f"the run is in {folder}; use it with: python infer.py --checkpoint {folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
