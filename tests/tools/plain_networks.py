"""The four networks a second time, from their descriptions and with plain functions only.

Each takes a dictionary of tensors under the names of the public code; nothing of the package is
used. `shapes` functions tell which tensors the public code has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def draw(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random weights; variances positive, gains near 1, others of a size that keeps signals."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, dtype=dtype)
        if name.endswith('num_batches_tracked'):
            drawn[name] = torch.tensor(7)
        elif name.endswith('running_var'):
            drawn[name] = 0.5 + values.abs()
        elif len(shape) == 1:
            drawn[name] = 0.2 * values + float(name.endswith('weight'))
        else:
            fan = math.prod(shape[1:])
            drawn[name] = values / math.sqrt(fan)
    return drawn


def affine(name: str, channels: int) -> Shapes:
    return {f'{name}.weight': (channels,), f'{name}.bias': (channels,)}


def batch_shapes(name: str, channels: int) -> Shapes:
    return {
        **affine(name, channels),
        f'{name}.running_mean': (channels,),
        f'{name}.running_var': (channels,),
        f'{name}.num_batches_tracked': (),
    }


def conv_shapes(name: str, inputs: int, outputs: int, edge: int = 3) -> Shapes:
    return {f'{name}.weight': (outputs, inputs, edge, edge, edge), f'{name}.bias': (outputs,)}


def up_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return {f'{name}.weight': (inputs, outputs, 2, 2, 2), f'{name}.bias': (outputs,)}


def linear_shapes(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    shapes: Shapes = {f'{name}.weight': (outputs, inputs)}
    return shapes | ({f'{name}.bias': (outputs,)} if bias else {})


def conv(w: Weights, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv3d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), stride, padding)


def up(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.conv_transpose3d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), 2)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f'{name}.weight'], w.get(f'{name}.bias'))


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'], 1e-5)


def batch_norm(w: Weights, name: str, x: Tensor, training: bool) -> Tensor:
    """By hand: over the batch in training, else by the running numbers."""
    if training:
        mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
    else:
        mean, variance = w[f'{name}.running_mean'], w[f'{name}.running_var']
    scale = w[f'{name}.weight'] / torch.sqrt(variance + 1e-5)
    shift = w[f'{name}.bias'] - mean * scale
    return x * scale[:, None, None, None] + shift[:, None, None, None]


def instance_norm(x: Tensor, gain: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    mean = x.mean((2, 3, 4), keepdim=True)
    variance = x.var((2, 3, 4), correction=0, keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5)
    if gain is None or shift is None:
        return y
    return y * gain[:, None, None, None] + shift[:, None, None, None]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Softmax attention of (…, tokens, width)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    return torch.softmax(scores, dim=-1) @ v


# --------------------------------------------------------------------------- MSSegDiff


def mssegdiff_shapes(inputs: int, features: tuple[int, ...], attention: bool = True) -> Shapes:
    *f, last = features
    deepest = len(f) - 1

    def unit(name: str, low: int, high: int) -> Shapes:
        return conv_shapes(f'{name}.conv', low, high) | affine(f'{name}.adn.N', high)

    def block(name: str, low: int, high: int, time: bool) -> Shapes:
        shapes = unit(f'{name}.conv_0', low, high) | unit(f'{name}.conv_1', high, high)
        return shapes | (linear_shapes(f'{name}.temb_proj', 512, high) if time else {})

    def squeeze(name: str, width: int) -> Shapes:
        shapes: Shapes = {}
        for path, n in product(('conv', 'conv_atten'), (0, 3)):
            shapes |= conv_shapes(f'{name}.{path}.conv.{n}', width, width)
            shapes |= batch_shapes(f'{name}.{path}.conv.{n + 1}', width)
        return shapes

    shapes = block('embed_model.conv_0', inputs, f[0], False)
    shapes |= linear_shapes('model.temb.dense.0', 128, 512)
    shapes |= linear_shapes('model.temb.dense.1', 512, 512)
    shapes |= block('model.conv_0', inputs + 1, f[0], True)
    for k in range(1, deepest + 1):
        shapes |= block(f'embed_model.down_{k}.convs', f[k - 1], f[k], False)
        shapes |= block(f'model.down_{k}.convs', f[k - 1], f[k], True)
        middle = f[k] // 2 if k > 1 else f[k]
        out = f[k - 1] if k > 1 else last
        shapes |= up_shapes(f'model.upcat_{k}.upsample.deconv', f[k], middle)
        shapes |= block(f'model.upcat_{k}.convs', f[k - 1] + middle, out, True)
        if attention:
            shapes |= squeeze(f'model.dsa{k}', f[k]) | squeeze(f'model.usa{k}', out)
    return shapes | conv_shapes('model.final_conv', last, 1, 1)


def _unit(w: Weights, name: str, x: Tensor) -> Tensor:
    y = conv(w, f'{name}.conv', x)
    y = instance_norm(y, w[f'{name}.adn.N.weight'], w[f'{name}.adn.N.bias'])
    return torch.where(y > 0, y, 0.1 * y)


def _two(w: Weights, name: str, x: Tensor, time: Tensor | None = None) -> Tensor:
    y = _unit(w, f'{name}.conv_0', x)
    if time is not None:
        shift = linear(w, f'{name}.temb_proj', time * torch.sigmoid(time))
        y = y + shift[:, :, None, None, None]
    return _unit(w, f'{name}.conv_1', y)


def _squeeze(w: Weights, name: str, x: Tensor, training: bool) -> Tensor:
    if f'{name}.conv.conv.0.weight' not in w:
        return x

    def double(path: str, y: Tensor) -> Tensor:
        for n in (0, 3):
            y = conv(w, f'{name}.{path}.conv.{n}', y)
            y = batch_norm(w, f'{name}.{path}.conv.{n + 1}', y, training).clamp_min(0)
        return y

    coarse = double('conv_atten', F.avg_pool3d(x, 2))
    for axis in (2, 3, 4):
        coarse = coarse.repeat_interleave(2, dim=axis)
    return coarse * double('conv', x) + coarse


def plain_mssegdiff(
    w: Weights, image: Tensor, noisy: Tensor, steps: Tensor, deepest: int, training: bool
) -> Tensor:
    maps = [_two(w, 'embed_model.conv_0', image)]
    for k in range(1, deepest + 1):
        maps.append(_two(w, f'embed_model.down_{k}.convs', F.max_pool3d(maps[-1], 2)))
    frequency = torch.exp(torch.arange(64, dtype=torch.float32) * -(math.log(10000) / 63))
    angle = steps.float()[:, None] * frequency
    waves = torch.cat([angle.sin(), angle.cos()], 1).to(image.dtype)
    time = linear(w, 'model.temb.dense.0', waves)
    time = linear(w, 'model.temb.dense.1', time * torch.sigmoid(time))
    y = _two(w, 'model.conv_0', torch.cat([image, noisy], 1), time) + maps[0]
    skips = [y]
    for k in range(1, deepest + 1):
        y = _two(w, f'model.down_{k}.convs', F.max_pool3d(y, 2), time) + maps[k]
        y = _squeeze(w, f'model.dsa{k}', y, training)
        skips.append(y)
    for k in range(deepest, 0, -1):
        raised = up(w, f'model.upcat_{k}.upsample.deconv', y)
        skip = skips[k - 1]
        short = [s - r for s, r in zip(skip.shape[2:], raised.shape[2:], strict=True)]
        for axis, missing in enumerate(short, 2):
            if missing:  # an odd edge: the last plane once more
                raised = torch.cat([raised, raised.narrow(axis, -1, 1)], dim=axis)
        y = _two(w, f'model.upcat_{k}.convs', torch.cat([skip, raised], 1), time)
        y = _squeeze(w, f'model.usa{k}', y, training)
    return conv(w, 'model.final_conv', y, 0)


# ---------------------------------------------------------------------------- TransBTS


def transbts_shapes(
    inputs: int, classes: int, edge: int, base: int, width: int, layers: int, hidden: int
) -> Shapes:
    def two(name: str, low: int, high: int, batch: bool) -> Shapes:
        norm = batch_shapes if batch else affine
        first = low if not batch else high
        return (
            conv_shapes(f'{name}.conv1', low, high)
            | conv_shapes(f'{name}.conv2', high, high)
            | norm(f'{name}.bn1', first)
            | norm(f'{name}.bn2', high)
        )

    shapes = conv_shapes('Unet.InitConv.conv', inputs, base)
    names = ['1', '2_1', '2_2', '3_1', '3_2', '4_1', '4_2', '4_3', '4_4']
    for name in names:
        channels = base * 2 ** (int(name[0]) - 1)
        shapes |= two(f'Unet.EnBlock{name}', channels, channels, False)
    for k in (1, 2, 3):
        shapes |= conv_shapes(f'Unet.EnDown{k}.conv', base * 2 ** (k - 1), base * 2**k)
    shapes |= batch_shapes('bn', 8 * base) | conv_shapes('conv_x', 8 * base, width)
    shapes |= {'position_encoding.position_embeddings': (1, (edge // 8) ** 3, width)}
    for n in range(layers):
        first, second = f'transformer.net.{2 * n}', f'transformer.net.{2 * n + 1}'
        shapes |= affine(f'{first}.fn.norm', width) | affine(f'{second}.fn.norm', width)
        shapes |= linear_shapes(f'{first}.fn.fn.qkv', width, 3 * width, False)
        shapes |= linear_shapes(f'{first}.fn.fn.proj', width, width)
        shapes |= linear_shapes(f'{second}.fn.fn.net.0', width, hidden)
        shapes |= linear_shapes(f'{second}.fn.fn.net.3', hidden, width)
    shapes |= linear_shapes('linear_encoding', 512, width) | affine('pre_head_ln', width)
    shapes |= two('Enblock8_1', width, 8 * base, True)
    shapes |= two('Enblock8_2', 8 * base, 8 * base, True)
    for k in (4, 3, 2):
        low, high = base * 2 ** (k - 2), base * 2 ** (k - 1)
        shapes |= conv_shapes(f'DeUp{k}.conv1', high, low, 1)
        shapes |= up_shapes(f'DeUp{k}.conv2', low, low)
        shapes |= conv_shapes(f'DeUp{k}.conv3', 2 * low, low, 1)
        shapes |= two(f'DeBlock{k}', low, low, True)
    return shapes | conv_shapes('endconv', base, classes, 1)


def plain_transbts(w: Weights, image: Tensor, heads: int, layers: int, groups: int) -> Tensor:
    """Class logits in eval mode."""

    def encode(name: str, x: Tensor) -> Tensor:
        y = x
        for n in (1, 2):
            norm = f'{name}.bn{n}'
            y = F.group_norm(y, groups, w[f'{norm}.weight'], w[f'{norm}.bias'], 1e-5)
            y = conv(w, f'{name}.conv{n}', y.clamp_min(0))
        return x + y

    def decode(name: str, x: Tensor) -> Tensor:
        for n in (1, 2):
            x = batch_norm(w, f'{name}.bn{n}', conv(w, f'{name}.conv{n}', x), False).clamp_min(0)
        return x

    y, skips = conv(w, 'Unet.InitConv.conv', image), []
    for level, names in enumerate((('1',), ('2_1', '2_2'), ('3_1', '3_2')), 1):
        for name in names:
            y = encode(f'Unet.EnBlock{name}', y)
        skips.append(y)
        y = conv(w, f'Unet.EnDown{level}.conv', y, stride=2)
    for n in (1, 2, 3, 4):
        y = encode(f'Unet.EnBlock4_{n}', y)
    y = conv(w, 'conv_x', batch_norm(w, 'bn', y, False).clamp_min(0))
    grid = y.shape[2:]
    tokens = y.permute(0, 2, 3, 4, 1).reshape(y.shape[0], -1, y.shape[1])
    tokens = tokens + w['position_encoding.position_embeddings']
    for n in range(layers):
        first, second = f'transformer.net.{2 * n}.fn', f'transformer.net.{2 * n + 1}.fn'
        packed = linear(w, f'{first}.fn.qkv', layer_norm(w, f'{first}.norm', tokens))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, -1))
        mixed = attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + linear(w, f'{first}.fn.proj', mixed)
        inner = F.gelu(linear(w, f'{second}.fn.net.0', layer_norm(w, f'{second}.norm', tokens)))
        tokens = tokens + linear(w, f'{second}.fn.net.3', inner)
    y = tokens.unflatten(1, grid).permute(0, 4, 1, 2, 3)
    y = decode('Enblock8_1', y)
    y = y + decode('Enblock8_2', y)
    for k in (4, 3, 2):
        raised = up(w, f'DeUp{k}.conv2', conv(w, f'DeUp{k}.conv1', y, 0))
        y = conv(w, f'DeUp{k}.conv3', torch.cat([skips[k - 2], raised], 1), 0)
        y = y + decode(f'DeBlock{k}', y)
    return conv(w, 'endconv', y, 0)


# ------------------------------------------------------------------ UNETR and SwinUNETR


def _leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def _residual(w: Weights, name: str, x: Tensor) -> Tensor:
    y = _leaky(instance_norm(conv(w, f'{name}.conv1.conv', x)))
    y = instance_norm(conv(w, f'{name}.conv2.conv', y))
    if f'{name}.conv3.conv.weight' in w:
        x = instance_norm(conv(w, f'{name}.conv3.conv', x, 0))
    return _leaky(x + y)


def _up_join(w: Weights, name: str, x: Tensor, skip: Tensor) -> Tensor:
    raised = up(w, f'{name}.transp_conv.conv', x)
    return _residual(w, f'{name}.conv_block', torch.cat([raised, skip], 1))


def plain_unetr(w: Weights, image: Tensor, heads: int) -> Tensor:
    """Class logits; tokens of 16 voxels, 12 layers, skips after layers 4, 7 and 10."""
    n, _, *edges = image.shape
    grid = [edge // 16 for edge in edges]
    cut = image
    for axis in (2, 4, 6):  # each axis becomes (token, voxel in token)
        cut = cut.unflatten(axis, (-1, 16))
    tokens = cut.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(n, math.prod(grid), -1)
    tokens = linear(w, 'vit.patch_embedding.patch_embeddings.1', tokens)
    tokens = tokens + w['vit.patch_embedding.position_embeddings']
    outputs = []
    for k in range(12):
        name = f'vit.blocks.{k}'
        packed = linear(w, f'{name}.attn.qkv', layer_norm(w, f'{name}.norm1', tokens))
        q, key, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in packed.chunk(3, -1))
        mixed = attention(q, key, v).transpose(1, 2).flatten(2)
        tokens = tokens + linear(w, f'{name}.attn.out_proj', mixed)
        inner = linear(w, f'{name}.mlp.linear1', layer_norm(w, f'{name}.norm2', tokens))
        tokens = tokens + linear(w, f'{name}.mlp.linear2', F.gelu(inner))
        outputs.append(tokens)

    def volume(x: Tensor) -> Tensor:
        return x.unflatten(1, grid).permute(0, 4, 1, 2, 3)

    def project(name: str, x: Tensor, stages: int) -> Tensor:
        y = up(w, f'{name}.transp_conv_init.conv', x)
        for stage in range(stages):
            y = up(w, f'{name}.blocks.{stage}.0.conv', y)
            y = _residual(w, f'{name}.blocks.{stage}.1', y)
        return y

    y = volume(layer_norm(w, 'vit.norm', tokens))
    for name, layer, encoder, stages in (
        ('decoder5', 10, 'encoder4', 0),
        ('decoder4', 7, 'encoder3', 1),
        ('decoder3', 4, 'encoder2', 2),
    ):
        y = _up_join(w, name, y, project(encoder, volume(outputs[layer - 1]), stages))
    y = _up_join(w, 'decoder2', y, _residual(w, 'encoder1.layer', image))
    return conv(w, 'out.conv.conv', y, 0)


def _window_bias(w: Weights, name: str, tokens: int) -> Tensor:
    """Relative position bias (heads, tokens, tokens); places are counted in the 7-cube."""
    index = torch.arange(tokens)
    place = torch.stack([index // 49, index // 7 % 7, index % 7], dim=-1)
    offset = place[:, None] - place[None] + 6
    row = (offset * torch.tensor([169, 13, 1])).sum(-1)
    return w[f'{name}.relative_position_bias_table'][row].permute(2, 0, 1)


def _window_attention(w: Weights, name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Attention in windows of (N, X, Y, Z, C), moved by `shift` where the map is larger."""
    n, *grid, c = x.shape
    size = [min(7, edge) for edge in grid]
    moves = [shift if edge > 7 else 0 for edge in grid]
    full = [math.ceil(edge / s) * s for edge, s in zip(grid, size, strict=True)]
    pad = [0, 0, 0, full[2] - grid[2], 0, full[1] - grid[1], 0, full[0] - grid[0]]
    x = F.pad(x, pad).roll([-m for m in moves], (1, 2, 3))
    region = torch.zeros(full, dtype=torch.long)
    for axis in range(3):
        place = torch.arange(full[axis])
        part = (place >= full[axis] - size[axis]).long() + (place >= full[axis] - moves[axis])
        region = region * 3 + part.reshape([-1 if a == axis else 1 for a in range(3)])
    out = torch.empty_like(x)
    starts = [range(0, f, s) for f, s in zip(full, size, strict=True)]
    for corner in product(*starts):
        box = tuple(slice(a, a + s) for a, s in zip(corner, size, strict=True))
        tokens = x[:, *box].reshape(n, -1, c)
        bias = _window_bias(w, name, tokens.shape[1])
        if any(moves):
            here = region[box].flatten()
            bias = bias + torch.where(here[:, None] == here[None], 0.0, -100.0)
        packed = linear(w, f'{name}.qkv', tokens)
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in packed.chunk(3, -1))
        mixed = attention(q, k, v, bias).transpose(1, 2).flatten(2)
        out[:, *box] = linear(w, f'{name}.proj', mixed).reshape(n, *size, c)
    out = out.roll(moves, (1, 2, 3))
    return out[:, : grid[0], : grid[1], : grid[2]]


def plain_swinunetr(w: Weights, image: Tensor, octants: list[tuple[int, int, int]]) -> Tensor:
    """Class logits; `octants` is the order in which 2x2x2 neighbours are joined."""
    x = conv(w, 'swinViT.patch_embed.proj', image, 0, 2).permute(0, 2, 3, 4, 1)
    scales = []

    def keep(y: Tensor) -> None:
        scales.append(F.layer_norm(y, y.shape[-1:]).permute(0, 4, 1, 2, 3))

    keep(x)
    for stage, heads in enumerate((3, 6, 12, 24), 1):
        root = f'swinViT.layers{stage}.0'
        for k, shift in enumerate((0, 3)):
            name = f'{root}.blocks.{k}'
            normed = layer_norm(w, f'{name}.norm1', x)
            x = x + _window_attention(w, f'{name}.attn', normed, heads, shift)
            inner = linear(w, f'{name}.mlp.linear1', layer_norm(w, f'{name}.norm2', x))
            x = x + linear(w, f'{name}.mlp.linear2', F.gelu(inner))
        joined = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in octants], -1)
        x = linear(
            w, f'{root}.downsample.reduction', layer_norm(w, f'{root}.downsample.norm', joined)
        )
        keep(x)
    y = _residual(w, 'encoder10.layer', scales[4])
    y = _up_join(w, 'decoder5', y, scales[3])
    for name, encoder, scale in (
        ('decoder4', 'encoder4', 2),
        ('decoder3', 'encoder3', 1),
        ('decoder2', 'encoder2', 0),
    ):
        y = _up_join(w, name, y, _residual(w, f'{encoder}.layer', scales[scale]))
    y = _up_join(w, 'decoder1', y, _residual(w, 'encoder1.layer', image))
    return conv(w, 'out.conv.conv', y, 0)
