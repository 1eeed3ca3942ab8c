"""A network's card: against the papers' tables, sums by hand, and receptive fields one by one."""

import json

import pytest
import torch
from torch import nn

import fastconv
from fastconv import visualize
from fastconv.cli import main


def card_of(name, **options):
    with torch.device("meta"):
        return visualize.model_card(fastconv.create_model(name, **options))


def test_alexnets_card():
    card = card_of("alexnet")
    rows = {row.layer: row for row in card.rows}
    assert card.parameters == 60_965_224 and round(card.macs / 1e6) == 724
    assert rows["conv1"].macs == 96 * 55 * 55 * 3 * 11 * 11
    assert rows["pool2"].output == (256, 13, 13) and rows["pool2"].parameters == 0
    assert rows["conv5"].sees == (163, 163) and rows["fc6"].sees is None
    assert list(rows)[:3] == ["pad1", "conv1", "relu1"]


def test_memory_by_hand():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),  # 20 parameters, 2x4x4
        nn.ReLU(),  # 2x4x4
        nn.Dropout(0.5),  # 2x4x4
        nn.Flatten(),  # a view
        nn.Linear(32, 5),  # 165 parameters
    )
    card = visualize.model_card(model, (1, 6, 6))
    assert card.parameters == 185 and card.macs == 9 * 32 + 32 * 5
    kept = 36 + 3 * 32 + 5
    assert card.training_bytes(10) == 4 * (3 * 185 + 10 * kept)
    # The convolution's input and output are the largest that meet: 36 + 32 numbers an image.
    assert card.inference_bytes(10) == 4 * (185 + 10 * (36 + 32))


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt", "cifar_dropconnect"])
def test_all_receptive_fields_are_those_of_each(name):
    model = fastconv.create_model(name, num_classes=2)
    fields = visualize.receptive_fields(model, model.input_size)
    for layer in visualize.main_layers(model):
        assert fields[layer] == visualize.receptive_field(model, layer, model.input_size)


def test_tiled_layers_and_options_show():
    plain, tiled = card_of("alexnet"), card_of("alexnet", tile_size=(1, 2, 1, 1, 1))
    assert tiled.macs == plain.macs
    assert tiled.parameters == plain.parameters + 3 * (48 * 25 + 1) * 256


def test_the_command_prints_it(capsys):
    options = ["--model-kwargs", "drop_layers=(3,4)", "variant=code", "--batch-size", "64"]
    assert main(["info", "alexnet", *options]) == 0
    text = capsys.readouterr()
    lines = text.out.splitlines()
    assert lines[0].startswith("alexnet drop_layers=(3,4) variant=code, images of 3x224x224")
    (conv5,) = [line.split() for line in lines if line.startswith("conv5")]
    assert conv5 == ["conv5", "Conv2d", "256x13x13", "295,168", "49,840,128", "131x131"]
    assert "59,268,712" in text.out and "memory at a batch of 64" in text.out
    assert main(["info", "zfnet", "--num-classes", "10", "--image-size", "96", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["input_size"] == [3, 96, 96] and card["layers"][-1]["output"] == [10]
    assert sum(row["parameters"] for row in card["layers"]) == card["parameters"]


def test_the_command_names_what_is_wrong(capsys):
    assert main(["info", "alexnett"]) == 2
    assert "unknown model 'alexnett'; closest: alexnet" in capsys.readouterr().err
    assert main(["info", "zfnet", "--image-size", "40"]) == 2
    assert "at least 64 pixels" in capsys.readouterr().err
