"""From the output channels of a network to one lesion logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mslesseg_app.models.networks.edges import EdgeRule


def lesion_logit(logits: Tensor, lesion: int | None = None) -> Tensor:
    """Return the logit whose sigmoid is the probability of lesion.

    Parameters
    ----------
    logits : Tensor (N, K, X, Y, Z)
        One sigmoid channel; or K classes of a softmax, the first being background; or, with
        `lesion`, K independent sigmoid channels.
    lesion : int, optional
        The channel of lesions among independent sigmoid channels.

    Returns
    -------
    Tensor (N, 1, X, Y, Z)
        For a softmax the log-odds of all classes but the first; with two classes this is the
        difference of their logits.

    Examples
    --------
    >>> two = torch.tensor([0.2, 1.7]).reshape(1, 2, 1, 1, 1)
    >>> round(float(torch.sigmoid(lesion_logit(two)) - torch.softmax(two, 1)[:, 1]), 6)
    0.0
    """
    if lesion is not None:
        return logits[:, lesion : lesion + 1]
    if logits.shape[1] == 1:
        return logits
    rest = logits[:, 1:]
    if rest.shape[1] > 1:
        rest = torch.logsumexp(rest, dim=1, keepdim=True)
    return rest - logits[:, :1]


def check_head(classes: int, lesion: int | None) -> None:
    """Raise ValueError unless there is such a channel of lesions."""
    if classes < 1:
        raise ValueError(f'classes must be 1 or more, not {classes}')
    if lesion is not None and not 0 <= lesion < classes:
        raise ValueError(f'there is no channel {lesion} among {classes}')


class LesionHead(nn.Module):
    """What is the same of all `mslesseg_app.models.networks.spec.WindowNetwork`.

    It stands before `torch.nn.Module`, or before a class of MONAI's, among the bases.

    Attributes
    ----------
    rule : EdgeRule
        Which windows the network takes; `mslesseg_app.models.networks.build` sets it.
    lesion : int or None
        See `lesion_logit`.
    """

    rule: EdgeRule
    lesion: int | None

    def forward_classes(self, image: Tensor) -> Tensor:
        """Return the logits (N, classes, X, Y, Z) of images (N, inputs, X, Y, Z).

        Raises
        ------
        ValueError
            If the edges do not fit the network.
        """
        self.rule.check(image.shape[2:])
        return self.logits(image)

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits of images whose edges fit: those of the class of MONAI's."""
        logits: Tensor = super().forward(image)
        return logits

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Return the logits of all outputs: one, where there are none at coarser resolutions."""
        return [self.forward_classes(image)]

    def forward(self, image: Tensor) -> Tensor:
        """Return the lesion logit (N, 1, X, Y, Z)."""
        return lesion_logit(self.forward_classes(image), self.lesion)
