"""One training in Lightning, from its configuration to its sealed files."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import nn
from torch.nn import functional as F

from landscape import Objective
from landscape.callbacks import ProbeEvery, TrainingDynamics
from landscape.examples import Examples as FixedExamples
from landscape.execution import Progress
from landscape.measure import Probe
from landscape.optimizer_state import NoStepError, OptimizerState
from landscape.parameters import ParameterLayout
from landscape.store import Store
from landscape.weights import digest_tensors, fit_weights, load_weights, save_weights
from models.architectures import build_model
from models.augmentation import make_augmenter
from models.averaged import AveragedWeights
from models.averaging import make_average
from models.classifier import Classifier
from models.config import RunConfig
from models.data import Examples, Splits, TensorLoader, load_data
from models.devices import find_device
from models.gradients import GradientRules
from models.initialization import initialize
from models.losses import Loss, make_loss
from models.opened import AVERAGE_FILE, LAST_FILE, OPTIMIZER_FILE, SCHEMA_VERSION
from models.optimizers import build_optimizer
from models.regularization import regularize
from models.resuming import BestWeights, EpochCheckpoint, Interruption, SafetensorsCheckpoints
from models.schedules import make_schedule, scaled_lr
from models.seeds import Fork, derived_seed
from models.transfer.anchors import Anchor, make_anchor
from models.transfer.beginning import Beginning
from models.transfer.freezing import freeze, parameter_groups
from models.watching import read_watches

_LOG_EVERY = 10  # steps, where a logger is asked for
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class Training:
    """One run from its configuration to its sealed files."""

    def __init__(self, config: RunConfig, data: Splits | None = None) -> None:
        """Load and build everything, but for data that is at hand; nothing is written."""
        self.config = config
        _require_logger(config.logger)
        self.device = find_device(config.device)
        self.data = data or load_data(config.data, **config.data_options)
        self.network = build_model(
            config.model, self.data.input_shape, self.data.num_classes, **config.architecture_options
        )
        seed = derived_seed(config.seed, "weights")
        first = self.data.train.inputs[: config.batch_size if config.batch_size != "all" else None]
        initialize(self.network, config.init, torch.Generator().manual_seed(seed), first)
        regularize(self.network, config.regularization)
        _refuse_lonely_example(config, self.data)
        self.beginning = Beginning.of(config, self.network, self.data)
        still = freeze(self.network, config.freeze)
        count = len(self.data.train.targets)
        self.batch_size = count if config.batch_size == "all" else config.batch_size
        fork = None if config.fork_step is None else Fork(config.fork_step, config.fork_seed)
        train = self.data.train.to(self.device)
        self.loader = TensorLoader(train, self.batch_size, shuffle=True, seed=config.seed, fork=fork)
        _refuse_late_fork(config, len(self.loader))
        movable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer()(movable)  # settings that it refuses fail here, before anything is written
        average = make_average(config.average)
        self.averaged = AveragedWeights(average, config.freeze) if average else None
        self.module = Classifier(
            self.network,
            self.optimizer(),
            self.schedule(),
            config.seed,
            make_loss(config.label_smoothing),
            self.rules(),
            config.sam,
            make_augmenter(config.augment, config.data, self.data, self.device),
            still,
            tuple(self.watched()),
            fork,
        )
        self._require_known_stability()

    def _require_known_stability(self) -> None:
        """Refuse probes that ask what the optimizer does next where that is not known, such as under --sam."""
        if not any(getattr(watch.probe, "uses_optimizer", False) for watch in read_watches(self.config.probes)):
            return
        made = self.module.configure_optimizers()
        optimizer = made["optimizer"] if isinstance(made, dict) else made
        with suppress(NoStepError):
            OptimizerState.of(optimizer, self.network).on(ParameterLayout.of(self.network))

    def run(self, store: Store, progress: Progress | None) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        self.announce(store)
        checkpoint = store.path / "resume.safetensors"
        interruption = Interruption()
        averaged = [self.averaged] if self.averaged else []
        callbacks = [interruption, self._dynamics(store), *self._probing(store), *averaged, *self._best(store)]
        callbacks.append(EpochCheckpoint(checkpoint, progress))
        watched = [TensorLoader(examples.to(self.device), 1024) for examples in self.watched().values()]
        with own_settings(self.config.threads, self.device):
            self.module.anchor = self._anchor()
            trainer = make_trainer(self.config, self.device, store.path, callbacks)
            try:
                trainer.fit(
                    self.module,
                    self.loader,
                    watched or None,
                    ckpt_path=str(checkpoint) if checkpoint.exists() else None,
                )
            except SystemExit:
                if interruption.cause is None:
                    raise
                raise interruption.cause from None

    def watched(self) -> dict[str, Examples]:
        """The splits that are measured after each epoch, by the name of their loss."""
        test = {"epoch_test": self.data.test} if self.config.test_each_epoch else {}
        return test if self.data.val is None else {"val": self.data.val, **test}

    def announce(self, store: Store) -> None:
        """Write run.json, or make sure that the data is what it was when the run began."""
        if (store.path / "run.json").exists():
            before = store.load_json("run")
            if before["data_sha256"] != self.data.digest:
                raise ValueError(
                    f"the data {self.config.data!r} has changed since {store.path} began to train on it; "
                    "restore it, or choose another folder"
                )
            return
        about = {
            "schema_version": SCHEMA_VERSION,
            "kind": "trained",
            "config": self.config.to_dict(),
            "data_sha256": self.data.digest,
            "examples_sha256": FixedExamples.of(self.data.train).digest(),
            **self.beginning.about(),
        }
        store.save_json("run", about)

    @property
    def lr(self) -> float:
        """The learning rate before its schedule, scaled with the batch."""
        c = self.config
        return scaled_lr(c.lr or 0.0, c.lr_scaling, min(self.batch_size, len(self.data.train.targets)))

    def optimizer(self) -> Callable[[Any], torch.optim.Optimizer]:
        """Return what builds the optimizer of the network's parameters."""
        c = self.config
        return partial(
            _build_optimizer,
            network=self.network,
            trunk_lr=c.trunk_lr,
            name=c.optimizer_name,
            lr=self.lr,
            weight_decay=0.0 if c.decoupled else c.weight_decay,
            options=c.optimizer_options,
        )

    def _anchor(self) -> Anchor:
        """Build what the network is kept near to, on its device."""
        anchor = self.config.anchor
        return Anchor() if anchor == "none" else make_anchor(anchor, self.beginning.memory(self.device))

    def rules(self) -> GradientRules:
        """Return what is done to gradients before the optimizer steps."""
        c = self.config
        return GradientRules(c.clip_value, c.clip_norm, c.l1, c.weight_decay if c.decoupled else 0.0)

    def schedule(self) -> Callable[[int], float] | None:
        """Return the factor on the learning rate as a function of the step; None if it is constant."""
        c = self.config
        if c.schedule == "constant" and not c.warmup:
            return None
        return make_schedule(c.schedule, len(self.loader) * c.epochs, c.warmup)

    def _dynamics(self, store: Store) -> TrainingDynamics:
        c = self.config
        return TrainingDynamics(
            store.path,
            flow_every=c.flow_every,
            snapshots=c.snapshots,
            log=c.logger != "none",
            submodule="network",
            results=lambda: self.results(store, self.module.trainer.optimizers[0]),
        )

    def _probing(self, store: Store) -> list[ProbeEvery]:
        log = self.config.logger != "none"
        return [
            ProbeEvery(w.probe, w.every, out=store.path, objective=partial(self._objective, w.probe), log=log)
            for w in read_watches(self.config.probes)
        ]

    def _objective(self, probe: Probe, module: pl.LightningModule) -> Objective:
        """The loss of the run over a part of its training split, where the network stands now."""
        number = min(self.config.probe_examples, len(self.data.train.targets))
        optimizer = module.trainer.optimizers[0] if getattr(probe, "uses_optimizer", False) else None
        return Objective(self.network, self.data.train, loss=self.module.loss, examples=number, optimizer=optimizer)

    def _best(self, store: Store) -> list[BestWeights]:
        c = self.config
        watched = c.early_stopping or c.keep_best
        return [BestWeights(store.path / "best.safetensors", c.early_stopping)] if watched else []

    def results(self, store: Store, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Save the optimizer and the weights that are kept, and measure them on the test and training split."""
        state = OptimizerState.of(optimizer, self.network)
        # with the digest of the last weights: those that are kept may be others
        state.save(store.path / OPTIMIZER_FILE, digest_tensors(self.network.state_dict()))
        found = {"optimizer_state_bytes": float(state.nbytes), **self._results_of_average(store)}
        best = store.path / "best.safetensors"
        if self.config.keep_best and best.exists():
            fit_weights(self.network, load_weights(best)[0])
        save_weights(store.path / "weights.safetensors", self.network.state_dict())
        for name, examples in (("test", self.data.test), ("final_train", self.data.train)):
            found |= self._measured(name, self.network, examples)
        return found

    def _results_of_average(self, store: Store) -> dict[str, float]:
        """Save the average and measure it on the test split; where it is kept, put it in the place of the last ones."""
        if self.averaged is None:
            return {}
        average = self.averaged.network(self.network, self.data.train.inputs)
        found = self._measured("average_test", average, self.data.test)
        if not self.config.keep_average:
            save_weights(store.path / AVERAGE_FILE, average.state_dict())
            return found
        save_weights(store.path / LAST_FILE, self.network.state_dict())
        found |= self._measured("last_test", self.network, self.data.test)
        self.network.load_state_dict(average.state_dict())
        return found

    def _measured(self, name: str, network: nn.Module, examples: Examples) -> dict[str, float]:
        loss, accuracy = measure(network, examples, self.module.loss)
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}


@torch.no_grad()
def measure(
    network: nn.Module, examples: Examples, loss: Loss = F.cross_entropy, batch_size: int = 1024
) -> tuple[float, float]:
    """Return mean loss (nats) and accuracy of a network in eval mode, wherever it is."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    total = correct = 0.0
    for inputs, targets in TensorLoader(examples.to(device), batch_size):
        logits = network(inputs).double()
        total += loss(logits, targets).item() * len(targets)
        correct += (logits.argmax(1) == targets).sum().item()
    network.train(was_training)
    return total / len(examples.targets), correct / len(examples.targets)


def _build_optimizer(
    parameters: Any, *, network: nn.Module, trunk_lr: float, name: str, lr: float, weight_decay: float, options: Any
) -> Any:
    groups = parameters if trunk_lr == 1 else parameter_groups(network, lr, trunk_lr)
    return build_optimizer(name, groups, lr, weight_decay, **options)


def _refuse_lonely_example(config: RunConfig, data: Splits) -> None:
    """Batch normalization of vectors has nothing to average over in a batch of one example."""
    count = len(data.train.targets)
    last = count if config.batch_size == "all" else count % config.batch_size
    if config.model == "mlp" and config.norm.partition(":")[0] in ("batch", "ghost-batch") and 1 in (count, last):
        raise ValueError(
            f"{count} training examples leave a batch of one, which batch normalization cannot normalize; "
            "choose another batch_size or train_size"
        )


def _refuse_late_fork(config: RunConfig, steps_an_epoch: int) -> None:
    steps = steps_an_epoch * config.epochs
    if config.fork_step is not None and config.fork_step >= steps:
        raise ValueError(
            f"fork_step {config.fork_step} is not before the end of this training, which has {steps} steps "
            f"({steps_an_epoch} an epoch); fork earlier or train longer"
        )


def _require_logger(name: str) -> None:
    if name == "tensorboard" and not any(map(find_spec, ("tensorboardX", "tensorboard"))):
        raise ValueError(
            "logger tensorboard needs the package tensorboardX: pip install 'landscape-lab[tensorboard]', or choose csv"
        )


def _logger(name: str, folder: Path) -> Any:
    if name == "none":
        return False
    return (CSVLogger if name == "csv" else TensorBoardLogger)(folder, name="logs")


def make_trainer(config: RunConfig, device: torch.device, folder: Path, callbacks: list[Any]) -> pl.Trainer:
    """Build the Trainer of a run."""
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_epochs=config.epochs,
        callbacks=callbacks,
        plugins=[SafetensorsCheckpoints(), LightningEnvironment()],
        default_root_dir=folder,
        deterministic=device.type == "cuda",
        num_sanity_val_steps=0,
        logger=_logger(config.logger, folder),
        log_every_n_steps=_LOG_EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@contextmanager
def own_settings(threads: int, device: torch.device) -> Iterator[None]:
    """Train with the run's number of threads, quietly; give back as it was what we and Lightning's Trainer set.

    That is torch's threads, generators and choice of deterministic algorithms, cuDNN's benchmark, cuBLAS's workspace,
    Python's warnings and Lightning's loggers.
    """
    before, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    torch.set_num_threads(threads)
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            # Lightning asks torch for the type of a tree's leaf in a way that torch will drop
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec", FutureWarning)
            warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
            warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval")
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        os.environ.pop(_WORKSPACE, None)
        if workspace is not None:
            os.environ[_WORKSPACE] = workspace
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
