"""The numbers of the diagnostics against definitions, and the diagnoses of sick networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import visualize
from fastconv.visualize.diagnostics import sparseness


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6), nn.ReLU(), nn.Dropout(),
        nn.Linear(6, 3),
    )  # fmt: skip


def images(count=20):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_sparseness_between_all_alike_and_one_alone():
    rows = np.array([[1, 1, 1, 1], [0, 0, 3, 0], [0, 0, 0, 0], [-5, -5, 2, -5]])
    assert sparseness(rows).tolist() == [0, 1, 1, 1]
    r = np.array([[1.0, 2.0, 3.0]])
    expected = (1 - (6 / 3) ** 2 / (14 / 3)) / (1 - 1 / 3)
    assert sparseness(r)[0] == pytest.approx(expected)


def test_layer_activity_counts_over_batches():
    net, x = small_net(), images()
    found = visualize.layer_activity(net, x.split(7))
    assert list(found) == ["1", "4"]
    with torch.no_grad():
        maps, units = net[:2](x), net[:5](x)
    assert np.allclose(found["1"].responses, maps[:, :, 3, 3])
    assert np.allclose(found["4"].responses, units, atol=1e-6)
    assert found["1"].zeros == pytest.approx((maps == 0).float().mean().item())
    assert found["1"].counts.sum() == (maps > 0).sum()
    assert found["4"].dead.tolist() == (units <= 0).all(0).tolist()
    inside = maps[:7]
    expected = np.histogram(inside[inside > 0], bins=found["1"].edges)[0]
    first = visualize.layer_activity(net, [x[:7]])["1"]
    assert np.abs(first.counts - expected).sum() <= 2  # float32 against float64 at an edge
    pairs = found["4"].correlations()
    live = units.numpy()[:, units.std(0).numpy() > 0]
    assert len(pairs) == live.shape[1] * (live.shape[1] - 1) // 2
    assert pairs[0] == pytest.approx(np.corrcoef(live[:, 0], live[:, 1])[0, 1], abs=1e-5)
    visualize.histogram_figure(found)
    visualize.sparseness_figure(found)
    visualize.response_figure(found["4"])
    with pytest.raises(ValueError, match="at least one batch"):
        visualize.layer_activity(net, [])


def test_sick_networks_get_their_diagnosis():
    healthy = small_net()
    text = " ".join(visualize.diagnose_activity(visualize.layer_activity(healthy, [images(200)])))
    assert "sign of good training" in text
    dead = small_net()
    with torch.no_grad():
        dead[0].bias[1] = -100
    text = " ".join(visualize.diagnose_activity(visualize.layer_activity(dead, [images(200)])))
    assert "Dead maps in 1 (1 of 4)" in text and "learning rate" in text
    deaf = small_net()
    with torch.no_grad():
        deaf[3].bias.fill_(50)
    text = " ".join(visualize.diagnose_activity(visualize.layer_activity(deaf, [images(200)])))
    assert "of 4 answer to all images alike" in text and "zeros in 4" in text
    twins = small_net()
    with torch.no_grad():
        twins[3].weight.copy_(twins[3].weight[:1].expand_as(twins[3].weight))
        twins[3].bias.fill_(0)
    text = " ".join(visualize.diagnose_activity(visualize.layer_activity(twins, [images(200)])))
    assert "Maps of 4 are strongly correlated" in text


def test_parameter_scales_are_one_step_of_sgd():
    net, x, y = small_net(), images(), torch.arange(20) % 3
    found = visualize.parameter_scales(net, x, y, lr=0.1, weight_decay=0.01)
    net.eval()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    biases = [p for p in net.parameters() if p.dim() == 1]
    weights = [p for p in net.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": biases}], lr=0.1
    )
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    assert [s.name for s in found] == list(before)
    for s in found:
        p = net.get_parameter(s.name)
        assert s.elements == p.numel() and s.weight == pytest.approx(before[s.name].norm().item())
        assert s.gradient == pytest.approx(p.grad.norm().item(), rel=1e-4)
        step = (p.detach() - before[s.name]).norm().item()
        assert s.update == pytest.approx(step, rel=1e-3)
        assert s.ratio == pytest.approx(step / before[s.name].norm().item(), rel=1e-3)
    visualize.scales_figure(found)


def test_scales_get_their_diagnosis():
    x, y = images(), torch.arange(20) % 3

    def notes(net, lr):
        return " ".join(visualize.diagnose_scales(visualize.parameter_scales(net, x, y, lr=lr)))

    assert "by more than 1 %" in notes(small_net(), 100)
    assert "hundred-thousandth" in notes(small_net(), 1e-9)
    cut = small_net()
    with torch.no_grad():
        cut[3].bias.fill_(-1000)
    assert "No gradient reaches 0.weight" in notes(cut, 0.01)
    broken = small_net()
    with torch.no_grad():
        broken[3].weight[0, 0] = float("nan")
    assert "not a finite number" in notes(broken, 0.01)


def test_histories_get_their_diagnosis():
    def history(*epochs):
        names = ("epoch", "train_loss", "val_loss", "train_top1", "val_top1")
        return [dict(zip(names, (i, *e), strict=True)) for i, e in enumerate(epochs, 1)]

    def notes(*epochs):
        return " ".join(visualize.diagnose_history(history(*epochs)))

    assert "no finished epoch" in notes()
    assert "overfitting" in notes((1, 1, 0.5, 0.5), (0.1, 1.5, 1.0, 0.6))
    assert "points above validation" in notes((1, 1, 0.5, 0.5), (0.1, 0.9, 1.0, 0.7))
    assert "hardly fell" in notes((2.3, 2.3, 0.1, 0.1), (2.3, 2.3, 0.1, 0.1))
    assert "underfitting" in notes((2.3, 2.3, 0.1, 0.1), (1.5, 1.5, 0.5, 0.5))
    assert "nothing wrong" in notes((2.3, 2.3, 0.1, 0.1), (0.1, 0.12, 0.98, 0.97))


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("alexnet", 60_965_224, 724e6), ("zfnet", 62_357_608, 1168e6)],
)
def test_costs_of_the_papers_nets(name, parameters, macs):
    net = fastconv.create_model(name)
    rows = visualize.layer_costs(net, net.input_size)
    assert sum(r.parameters for r in rows) == parameters
    assert sum(r.macs for r in rows) == pytest.approx(macs, rel=1e-3)
    assert rows[0].layer == "conv1" and rows[-1].output == (1000,)


def test_costs_of_tiled_layers_are_those_of_plain_ones():
    plain = nn.Sequential(nn.Conv2d(2, 3, 3))
    tiled = nn.Sequential(fastconv.nn.TiledConv2d(2, 3, 3, 2))
    (a,), (b,) = (visualize.layer_costs(net, (2, 8, 8)) for net in (plain, tiled))
    assert a.macs == b.macs == 36 * 3 * 18 and b.parameters == 4 * a.parameters
