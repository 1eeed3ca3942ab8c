"""Readers of VOC's XML and COCO's JSON, and what they refuse."""

import json

import pytest
from PIL import Image

from fastconv.detection import AnnotationError, read_annotations, read_coco, read_voc

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox></object>"""


def write_voc(folder, stem, objects, size=(60, 40), image=True):
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    if image:
        Image.new("RGB", size).save(folder / "images" / f"{stem}.png")
    text = "".join(OBJECT.format(name=n, box=b, difficult=d) for n, b, d in objects)
    (folder / "annotations" / f"{stem}.xml").write_text(
        f"<annotation><filename>{stem}.png</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{text}</annotation>"
    )


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path):
    write_voc(tmp_path, "p-10", [("cat", (1, 1, 60, 40), 0), ("dog", (11, 21, 20, 30), 1)])
    write_voc(tmp_path, "p-2", [])
    second, tenth = read_annotations(tmp_path)
    assert second.path.name == "p-2.png" and second.boxes.shape == (0, 4) and second.labels == []
    assert tenth.size == (40, 60) and tenth.labels == ["cat", "dog"]
    assert tenth.boxes.tolist() == [[0, 0, 60, 40], [10, 20, 20, 30]]
    assert tenth.difficult.tolist() == [False, True]


def test_coco(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "one.png")
    content = {
        "images": [{"id": 7, "file_name": "one.png", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 30], "iscrowd": 1}
        ],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    (image,) = read_annotations(file)
    assert image.path == tmp_path / "one.png" and image.size == (40, 60)
    assert image.boxes.tolist() == [[10, 5, 30, 35]] and image.labels == ["cat"]
    assert image.difficult.tolist() == [True]
    content["annotations"][0]["category_id"] = 4
    file.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"instances.json: not COCO's JSON \(it has no 4\)"):
        read_coco(file)
    file.write_text("{")
    with pytest.raises(AnnotationError, match=r"instances\.json: not COCO's JSON"):
        read_coco(file)


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((5, 5, 5, 2), "5, 2"),
        ((1, 1, 70, 10), "70, 10"),
        ((-9, 1, 10, 10), "-10, 0"),
        (("nan", 1, 10, 10), "nan"),
    ],
)
def test_boxes_that_cannot_be_are_refused(tmp_path, box, shown):
    write_voc(tmp_path, "bad", [("cat", box, 0)])
    with pytest.raises(
        AnnotationError, match=r"bad\.xml: the box of cat must lie in its"
    ) as caught:
        read_voc(tmp_path)
    assert shown in str(caught.value)


def test_a_pixel_of_slack_is_cut_off(tmp_path):
    write_voc(tmp_path, "edge", [("cat", (0, 0, 61, 40), 0)])
    assert read_voc(tmp_path)[0].boxes.tolist() == [[0, 0, 60, 40]]


def test_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        read_annotations(tmp_path / "nothing")
    with pytest.raises(AnnotationError, match="no annotations, which are files"):
        read_voc(tmp_path)
    write_voc(tmp_path, "gone", [], image=False)
    with pytest.raises(AnnotationError, match=r"gone\.xml: its picture is missing: .*gone\.png"):
        read_voc(tmp_path)
    file = tmp_path / "annotations" / "gone.xml"
    file.write_text("<annotation><filename>x</filename>")
    with pytest.raises(AnnotationError, match=r"gone\.xml: not VOC's XML"):
        read_voc(tmp_path)
    file.write_text("<annotation><filename>x.png</filename></annotation>")
    with pytest.raises(AnnotationError, match=r"gone.xml: not VOC's XML \(it has no size/height\)"):
        read_voc(tmp_path)
