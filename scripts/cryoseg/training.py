"""Training of a segmentation network, as a module of Lightning."""

import lightning
import torch

from cryoseg.errors import InputError
from cryoseg.losses import (
    cross_entropy,
    distance_error,
    generalised_dice,
    scaled_distance,
)
from cryoseg.metrics import confusion, dice_and_iou
from cryoseg.synchronised_norm import synchronise_norms, together
from cryoseg.training_data import Augmentation, Augmented

# Share of the steps in which the learning rate rises, and how far it is from its peak before
# and in the end: PyTorch's own values, which CryoSiam uses.
RISING, FIRST_LR, LAST_LR = 0.3, 1 / 25, 1 / 25 / 1e4
# Momentum falls and rises by this much as the learning rate rises and falls.
MOMENTUM_SWING = 0.05
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class SegmentationTraining(lightning.LightningModule):
    """What a step, a validation and a checkpoint are.

    network:         SegmentationNetwork, which is trained in place
    config:          training configuration; parameters and hyper_parameters are read
    backbone_config: kept for the checkpoint

    After each step ``parts`` holds the loss of the batch of all processes: total, labels (cross
    entropy and Dice) and distance.
    """

    def __init__(self, network, config, backbone_config):
        super().__init__()
        self.network = network
        self.save_hyperparameters("config", "backbone_config")
        self.data = config["parameters"]["data"]
        self.learning = config["hyper_parameters"]
        wanted = config["parameters"]["network"]
        self.use_dice, self.use_distances = wanted["use_dice_loss"], wanted["distance_prediction"]
        self.channels = network.sizes.out_channels
        self.classes = max(2, self.channels)
        self.augmentation = Augmentation(
            self.data["min"], self.data["max"], self.channels, self.use_distances
        )
        self.frozen = freeze(network, wanted["unfreeze_backbone"], wanted["unfreeze_decoder"])
        freeze_unused(network, self.use_distances)
        # Questions of the callbacks to all processes, sent along with the loss: stop, save.
        self.requests = [0.0, 0.0]
        self.parts = {}
        self.train()

    def train(self, mode=True):
        """Frozen parts stay in evaluation: their norms keep their statistics too."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def configure_model(self):
        if self.trainer.world_size > 1:
            synchronise_norms(self.network, self.trainer.strategy.root_device)

    def configure_optimizers(self):
        kind, lr = self.learning["optimizer"], self.learning["lr"]
        momentum = self.learning["momentum"]
        low, high = max(momentum - MOMENTUM_SWING, 0.0), min(momentum + MOMENTUM_SWING, 0.999)
        extra = {"momentum": momentum} if kind == "sgd" else {"betas": (momentum, 0.999)}
        decay = self.learning["weight_decay"]
        optimizer = OPTIMIZERS[kind](self.network.parameters(), lr, weight_decay=decay, **extra)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=RISING, anneal_strategy="cos", base_momentum=low, max_momentum=high,
            div_factor=1 / FIRST_LR, final_div_factor=FIRST_LR / LAST_LR,
        )  # fmt: skip
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def prepare(self, batch):
        """Images, labels and distance targets (or None), as the losses take them."""
        if not isinstance(batch, Augmented):
            batch = self.augmentation(batch)
        images = (batch.images - self.data["mean"]) / self.data["std"]
        images = images.to(memory_format=torch.channels_last_3d)
        target = None if batch.squares is None else scaled_distance(batch.squares)
        return images, batch.labels, target

    def losses(self, logits, raw, labels, target):
        """Each loss as (sum, what to divide by), for this process's part of the batch."""
        losses = {"cross entropy": cross_entropy(logits, labels)}
        if self.use_dice:
            losses["dice"] = generalised_dice(logits, labels)
        if self.use_distances:
            losses["distance"] = distance_error(raw, target)
        return losses

    def training_step(self, batch, batch_idx):
        with torch.autocast(self.device.type, enabled=False):
            images, labels, target = self.prepare(batch)
        logits, raw = self.network(images, distances=self.use_distances)
        losses = self.losses(logits, raw, labels, target)
        sums = torch.stack([total for total, _ in losses.values()])
        counts = torch.stack([count for _, count in losses.values()]).double()
        asked = counts.new_tensor(self.requests)
        n = len(losses)
        shared = together(torch.cat([sums.detach().double(), counts, asked]))
        divisors = shared[n : 2 * n].clamp(min=1)
        *values, stop, save = [*(shared[:n] / divisors).tolist(), *shared[2 * n :].tolist()]
        self.parts = _parts(dict(zip(losses, values, strict=True)))
        self.agreed = stop > 0, save > 0
        self._check_finite(values, sums, batch)
        # DistributedDataParallel takes the mean of the processes' gradients.
        return (sums / divisors.to(sums.dtype)).sum() * self.trainer.world_size

    def _check_finite(self, values, own, batch):
        """Stop where the loss is no number, before the step that would spoil the weights."""
        if all(abs(value) < float("inf") for value in values):
            return
        guilty = ", ".join(batch.names)
        if torch.isfinite(own).all():
            guilty = "patches of another process, whose log names them"
        raise InputError(
            f"the loss is {self.parts['loss']} at step {self.global_step} (epoch "
            f"{self.current_epoch}), with {guilty}; look at these patches, lower the learning rate "
            f"({self.learning['lr']}), or set precision to fp32; model/last.ckpt is from before"
        )

    def on_validation_epoch_start(self):
        self._sums = torch.zeros(0)
        self._confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64,
                                      device=self.device)  # fmt: skip

    def validation_step(self, batch, batch_idx):
        with torch.autocast(self.device.type, enabled=False):
            images, labels, target = self.prepare(batch)
        logits, raw = self.network(images, distances=self.use_distances)
        losses = self.losses(logits, raw, labels, target)
        sums = torch.stack([torch.stack([s.double(), c.double()]) for s, c in losses.values()])
        if not torch.isfinite(sums).all():
            raise InputError(
                f"the validation loss is no number after step {self.global_step}, with "
                f"{', '.join(batch.names)}; look at these patches, lower the learning rate "
                f"({self.learning['lr']}), or set precision to fp32"
            )
        self._sums = self._sums + sums if self._sums.numel() else sums
        predicted = logits[:, 0] > 0 if self.channels == 1 else logits.argmax(1)
        self._confusion += confusion(predicted, labels, self.classes)

    def on_validation_epoch_end(self):
        names = ["cross entropy"] + ["dice"] * self.use_dice + ["distance"] * self.use_distances
        sums = self._sums.to(self.device)
        if not sums.numel():
            sums = torch.zeros(len(names), 2, dtype=torch.float64, device=self.device)
        values = together(sums)
        values = (values[:, 0] / values[:, 1].clamp(min=1)).tolist()
        dice, iou = dice_and_iou(together(self._confusion).cpu().numpy())
        results = {f"val_{k}": v for k, v in _parts(dict(zip(names, values, strict=True))).items()}
        for name, measure in (("dice", dice), ("iou", iou)):
            results |= {f"{name}_{c}": value for c, value in enumerate(measure.tolist())}
        self.validated = results
        self.log_dict(results, batch_size=1)

    def on_save_checkpoint(self, checkpoint):
        """Give the weights the names that CryoSiam's checkpoints have."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name.removeprefix("network."): weights.contiguous() for name, weights in state.items()
        }

    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {f"network.{k}": v for k, v in checkpoint["state_dict"].items()}


def _parts(losses):
    """Total and parts under the names of CryoSiam's logs."""
    parts = {
        "loss": sum(losses.values()),
        "labels_loss": losses["cross entropy"] + losses.get("dice", 0.0),
    }
    return parts | ({"distance_loss": losses["distance"]} if "distance" in losses else {})


def freeze(network, unfreeze_backbone, unfreeze_decoder):
    """Exclude the encoder, or decoder and projector, from training; returns the frozen modules."""
    backbone = network._model_backbone
    frozen = [] if unfreeze_backbone else [backbone.encoder]
    frozen += [] if unfreeze_decoder else [backbone.decoder, backbone.projector]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def freeze_unused(network, distances):
    """Exclude weights that no loss depends on: those of pretraining, mostly.

    Processes that train together must agree on the weights that get gradients.
    """
    was_training = network.training
    size = network.sizes.stride
    probe = torch.zeros(1, network.sizes.in_channels, *[size] * network.sizes.spatial_dims)
    logits, raw = network.eval()(probe, distances=distances)
    total = logits.sum() + (raw.sum() if distances else 0)
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    network.train(was_training)
