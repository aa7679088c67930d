"""Archives: members where they lie, cut short at every place, hostile; every member ends counted."""

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.options.shared import InputOptions
from normcli.sources import Item, Skipped, read
from normcli.summary import Summary
from tests.support import needs, packing
from tests.support.images import encoded, photograph
from tests.support.outcomes import outcome, outcome_and_whole

PICTURE = encoded(photograph(24, 32, seed=1), "JPEG")


def add(archive: tarfile.TarFile, name: str, data: bytes = PICTURE, **header: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def a_tar(path: Path, *names: str, **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name in names:
            add(archive, name)
    return path


def found(source: Path, **options: Any) -> list[Item | Skipped]:
    return list(read([str(source)], InputOptions(**options)))


class TestTar:
    def test_a_member_is_named_after_its_shard_and_labelled_by_its_folder(self, tmp_path: Path) -> None:
        shard = a_tar(tmp_path / "s.tar", "./cat/1.jpg", "2.png")
        assert [(item.key, item.label) for item in found(shard) if isinstance(item, Item)] == [
            (f"{shard}/cat/1.jpg", "cat"),
            (f"{shard}/2.png", None),
        ]

    def test_a_sample_takes_its_label_from_cls_or_json_before_or_after_it(self, tmp_path: Path) -> None:
        shard = tmp_path / "s.tar"
        with tarfile.open(shard, "w") as archive:
            add(archive, "a/000.cls", b"7\n")
            add(archive, "a/000.jpg")
            add(archive, "a/001.jpg")
            add(archive, "a/001.json", b'{"label": "owl", "caption": "x"}')
            add(archive, "a/002.jpg")
            add(archive, "a/002.json", b"{ not json")
            add(archive, "a/003.txt", b"a caption")
        got = found(shard)
        assert [item.label for item in got if isinstance(item, Item)] == ["7", "owl", "a"]
        assert [skip.key.rpartition("/")[2] for skip in got if isinstance(skip, Skipped)] == ["003.txt"]

    @pytest.mark.parametrize("mode", ["w", "w:gz"])
    @pytest.mark.parametrize("first", [True, False])
    def test_a_label_is_that_of_all_images_of_a_large_sample(self, first: bool, mode: Any, tmp_path: Path) -> None:
        """Of 70 views the last 6 were in another group, or all but those."""
        names = [f"a.{i:02}.jpg" for i in range(70)]
        with tarfile.open(tmp_path / "s.tar", mode) as archive:
            for name in ["a.cls", *names] if first else [*names, "a.cls"]:
                add(archive, name, b"7" if name.endswith("cls") else PICTURE)
        got = found(tmp_path / "s.tar")
        assert [item.label for item in got if isinstance(item, Item)] == ["7"] * 70 and len(got) == 70

    def test_a_label_that_comes_too_late_is_reported(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            for i in range(5000):
                add(archive, f"a.{i:04}.jpg", b"x")
            add(archive, "a.cls", b"7")
            add(archive, "b.jpg")
        got = found(tmp_path / "s.tar")
        assert [(late.key[-5:], late.reason) for late in got if isinstance(late, Skipped)] == [
            ("a.cls", "unused-label")
        ]
        assert Counter(item.label for item in got if isinstance(item, Item)) == {None: 4097, "7": 904}

    def test_a_label_that_is_null_is_passed_over(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            add(archive, "a.jpg")
            add(archive, "a.json", b'{"label": null, "cls": 4}')
        (item,) = found(tmp_path / "s.tar")
        assert isinstance(item, Item) and item.label == "4"

    @pytest.mark.parametrize("data", [b"", b" \n", b"\xff\xfe1"])
    def test_a_label_without_text_is_reported(self, data: bytes, tmp_path: Path) -> None:
        """Its image was in the group of its folder, without a message."""
        with tarfile.open(tmp_path / "s.tar", "w") as archive:
            add(archive, "x/a.jpg")
            add(archive, "x/a.cls", data)
        skip, item = found(tmp_path / "s.tar")
        assert isinstance(skip, Skipped) and (skip.key[-5:], skip.reason) == ("a.cls", "unused-label")
        assert isinstance(item, Item) and item.label == "x"

    def test_a_sparse_file_has_its_own_name(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "cat/a.jpg"}
            add(archive, "GNUSparseFile.4711/a.jpg", pax_headers=records)
        (item,) = found(tmp_path / "s.tar")
        assert item.key == f"{tmp_path}/s.tar/cat/a.jpg"

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_and_odd_names_come_through(self, tmp_path: Path, form: int) -> None:
        names = ["x" * 90 + "/" + "y" * 90 + "/" + "z" * 60 + ".jpg", "käse/雪.jpg", "a b/[c].jpg"]
        shard = a_tar(tmp_path / "s.tar", *names, format=form)
        assert [item.key for item in found(shard)] == [f"{shard}/{name}" for name in names]
        assert outcome(shard) == (3, Counter(), Counter())

    def test_cut_at_every_place_it_is_reported(self, tmp_path: Path) -> None:
        whole = a_tar(tmp_path / "s.tar", "a.jpg", "b.jpg", "c.jpg").read_bytes()
        end = whole.rstrip(b"\0")
        data_end = (len(end) + 511) // 512 * 512
        cut = tmp_path / "cut.tar"
        places = {*range(0, data_end + 1024, 101), *range(512, data_end + 1024, 512), data_end + 1023}
        for place in sorted(places):
            cut.write_bytes(whole[:place])
            images, failed, _ = outcome(cut)
            assert failed["truncated"] or failed["empty"] or failed["not-an-archive"], place
            assert images <= 3 and images + failed.total() >= 1
        cut.write_bytes(whole[: data_end + 1024])  # both end blocks, no filling
        assert outcome(cut) == (3, Counter(), Counter())

    @pytest.mark.parametrize("kind", ["gz", "zst"])
    def test_a_compressed_tar_cut_short_is_reported_and_what_came_before_counts(
        self, tmp_path: Path, kind: str
    ) -> None:
        pictures = [encoded(photograph(64, 64, seed=i)) for i in range(6)]
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as archive:
            for i, data in enumerate(pictures):
                add(archive, f"{i}.png", data)
        if kind == "gz":
            packed = gzip.compress(plain.getvalue())
        else:
            zstandard = needs.module("zstandard")
            packed = zstandard.ZstdCompressor().compress(plain.getvalue())
        path = tmp_path / f"s.tar.{kind}"
        path.write_bytes(packed)
        assert outcome(path)[0] == 6
        for place in range(1, len(packed) - 8, len(packed) // 25):
            path.write_bytes(packed[:place])
            images, failed, _ = outcome(path)
            assert failed.total() >= 1 and images < 6

    def test_a_flipped_bit_anywhere_never_goes_unseen_or_raises(self, tmp_path: Path) -> None:
        whole = a_tar(tmp_path / "s.tar", "a.jpg", "b.jpg", format=tarfile.USTAR_FORMAT).read_bytes()
        rng = random.Random(1)
        path = tmp_path / "flipped.tar"
        for _ in range(60):  # in a header: the checksum
            damaged = bytearray(whole)
            damaged[rng.choice([*range(148), *range(156, 500)])] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            images, failed, _ = outcome(path)
            assert images == 0 and failed["not-an-archive"] == 1

    def test_two_archives_in_one_file_are_reported(self, tmp_path: Path) -> None:
        one = a_tar(tmp_path / "s.tar", "a.jpg").read_bytes()
        (tmp_path / "two.tar").write_bytes(one + one)
        assert outcome(tmp_path / "two.tar") == (1, Counter({"trailing-data": 1}), Counter())

    def test_a_shard_that_changes_after_listing_is_refused(self, tmp_path: Path) -> None:
        shard = a_tar(tmp_path / "s.tar", "a.jpg")
        (item,) = found(shard)
        a_tar(shard, "b.jpg", "c.jpg")
        assert isinstance(item, Item)
        with pytest.raises(normcli.errors.InputError, match="changed"):
            item.load()

    def test_a_missing_shard_of_a_range_is_counted(self, tmp_path: Path) -> None:
        a_tar(tmp_path / "s-000.tar", "a.jpg")
        a_tar(tmp_path / "s-002.tar", "a.jpg")
        assert outcome(tmp_path / "s-{000..002}.tar") == (2, Counter({"missing": 1}), Counter())

    def test_an_archive_in_a_folder_is_pointed_at(self, tmp_path: Path) -> None:
        a_tar(tmp_path / "s.tar", "a.jpg")
        (tmp_path / "a.jpg").write_bytes(PICTURE)
        assert outcome(tmp_path) == (1, Counter(), Counter({"container": 1}))


def hostile_tars(folder: Path) -> dict[str, tuple[Path, int]]:
    """Thirty hostile tars, each with one good picture first: path, and the number of other members."""
    out: dict[str, tuple[Path, int]] = {}

    def keep(name: str, *members: tuple[str, dict[str, Any]], mode: str = "w", **options: Any) -> Path:
        path = folder / f"{name}.tar"
        with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
            add(archive, "good.jpg")
            for member, header in members:
                header = dict(header)
                add(archive, member, header.pop("data", PICTURE), **header)
        out[name] = path, len(members)
        return path

    names = ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "C:/a.jpg", "\\\\host\\a.jpg"]
    for i, name in enumerate([*names, "a/..", "..", "/", "a/\0/b.jpg"]):
        keep(f"name{i}", (name + ("" if name.endswith("jpg") else "/x.jpg"), {}), format=tarfile.PAX_FORMAT)
    for kind in (b"1", b"2"):
        for target in ("/etc/passwd", "../../x.jpg", "link.jpg"):
            keep(f"link{kind.decode()}{len(out)}", ("link.jpg", {"type": kind, "linkname": target, "data": b""}))
    for kind in (b"3", b"4", b"6", b"Z"):
        keep(f"type{kind.decode()}", ("x.jpg", {"type": kind, "data": b""}))
    keep("same-name", ("good.jpg", {}), ("good.jpg", {}))
    keep("empty-member", ("e.jpg", {"data": b""}))
    keep("zeros", ("zeros.jpg", {"data": bytes(200 << 20)}), mode="w:gz", compresslevel=9)
    keep("label-bomb", ("good.cls", {"data": b"9" * (3 << 20)}))
    for claim, field in (("huge", b"77777777777\0"), ("base256", b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7)):
        path = keep(f"claims-{claim}", ("x.jpg", {}), format=tarfile.USTAR_FORMAT)
        _patch(path, 512 + (len(PICTURE) + 511) // 512 * 512, 124, field)
    path = keep("negative", ("x.jpg", {}), format=tarfile.USTAR_FORMAT)
    _patch(path, 512 + (len(PICTURE) + 511) // 512 * 512, 124, b"\xff" * 12)
    path = keep("long-name", ("x.jpg", {}), format=tarfile.USTAR_FORMAT)
    _patch(path, 512 + (len(PICTURE) + 511) // 512 * 512, 156, b"L")
    path = keep("pax-lies", ("y" * 200 + ".jpg", {}), format=tarfile.PAX_FORMAT)
    path.write_bytes(path.read_bytes().replace(b"214 path=", b"999 path="))
    path = keep("pax-size", ("x.jpg", {"pax_headers": {"size": "-5"}}), format=tarfile.PAX_FORMAT)
    return out


def _patch(path: Path, start: int, field: int, value: bytes) -> None:
    """Change a header's field and mend its checksum."""
    data = bytearray(path.read_bytes())
    data[start + field : start + field + len(value)] = value
    header = bytearray(data[start : start + 512])
    header[148:156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(data)


def test_thirty_hostile_tars_are_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tars = hostile_tars(tmp_path / "in")
    assert len(tars) >= 30
    before = sorted(tmp_path.rglob("*"))
    for name, (path, others) in tars.items():
        (images, failed, skipped), whole = outcome_and_whole(path)
        assert images == {"same-name": 3}.get(name, 1), name
        listed = images + failed.total() + skipped.total() - whole
        # behind a header that cannot be trusted no member can be named: the archive itself is reported
        assert listed == 1 + others or (whole == 1 and listed <= 1 + others), (name, failed, skipped)
    assert sorted(tmp_path.rglob("*")) == before


def a_zip(path: Path, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # zipfile cuts at NUL and turns separators
            info.compress_type = zipfile.ZIP_DEFLATED if name == "good.jpg" else method
            archive.writestr(info, data)
    return path


class TestZip:
    def test_a_program_before_the_archive_and_a_comment_after_it_are_allowed(self, tmp_path: Path) -> None:
        path = a_zip(tmp_path / "a.zip", ("a/1.jpg", PICTURE))
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"PK\5\6 in a comment"
        path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
        assert outcome(path) == (1, Counter(), Counter())
        path.write_bytes(path.read_bytes() + b"\r\n")
        assert outcome(path) == (1, Counter(), Counter())

    def test_a_comment_may_contain_an_end_record(self, tmp_path: Path) -> None:
        """The archive was read as one of no members, without a message."""
        path = a_zip(tmp_path / "a.zip", ("a/1.jpg", PICTURE))
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"of PK\5\6" + bytes(30)
        assert outcome(path) == (1, Counter(), Counter())

    def test_zip64_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive, archive.open("a.jpg", "w", force_zip64=True) as file:
            file.write(PICTURE)
        assert outcome(path) == (1, Counter(), Counter())
        many = tmp_path / "many.zip"
        with zipfile.ZipFile(many, "w") as archive:
            for i in range(65_600):  # over 65,535 the count is in the zip64 record
                archive.writestr(f"{i}.txt", b"")
            archive.writestr("a.jpg", PICTURE)
        assert outcome(many) == (1, Counter(), Counter({"not-an-image-name": 65_600}))
        many.write_bytes(b"#!/bin/sh\n" + many.read_bytes())  # a program before it
        assert outcome(many) == (1, Counter(), Counter({"not-an-image-name": 65_600}))

    def test_cut_at_every_place_it_is_reported(self, tmp_path: Path) -> None:
        whole = a_zip(tmp_path / "a.zip", ("a.jpg", PICTURE), ("b.jpg", PICTURE)).read_bytes()
        path = tmp_path / "cut.zip"
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place])
            assert outcome(path)[1].total() >= 1, place

    def test_members_out_of_order_are_read_and_members_over_others_are_not(self, tmp_path: Path) -> None:
        path = a_zip(tmp_path / "a.zip", ("a.jpg", PICTURE), ("b.jpg", PICTURE), method=zipfile.ZIP_STORED)
        data = path.read_bytes()
        start = data.index(b"PK\1\2")
        length = 46 + len("a.jpg")
        first, second = data[start : start + length], data[start + length : start + 2 * length]
        path.write_bytes(data[:start] + second + first + data[start + 2 * length :])
        assert outcome(path) == (2, Counter(), Counter())
        path.write_bytes(data[:start] + first + first + data[start + 2 * length :])
        images, failed, _ = outcome(path)
        assert images <= 1 and failed["damaged"] >= 1


def hostile_zips(folder: Path) -> dict[str, tuple[Path, int]]:
    """Thirty hostile zips, each with one good picture first: path, and the number of other members."""
    out: dict[str, tuple[Path, int]] = {}

    def keep(name: str, *members: tuple[str, bytes], **options: Any) -> Path:
        out[name] = a_zip(folder / f"{name}.zip", ("good.jpg", PICTURE), *members, **options), len(members)
        return out[name][0]

    names = ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "..\\a.jpg", "C:\\a.jpg", "C:/a.jpg", "\\\\host\\a.jpg"]
    for i, name in enumerate([*names, "a/../x.jpg", "../../../../../tmp/x.jpg", "/x.jpg", "a\0.jpg"]):
        keep(f"name{i}", (name, PICTURE))
    keep("bomb", ("bomb.jpg", bytes(200 << 20)))
    keep("bomb-with-a-head", ("bomb.jpg", PICTURE + bytes(50 << 20)))
    keep("lzma", ("x.jpg", PICTURE), method=zipfile.ZIP_LZMA)
    keep("bz2", ("x.jpg", PICTURE), method=zipfile.ZIP_BZIP2)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x.jpg", PICTURE)
    keep("nested", ("inner.zip", inner.getvalue()), ("inner.jpg", inner.getvalue()))
    keep("empty", ("e.jpg", b""))
    with pytest.warns(UserWarning, match="Duplicate"):
        keep("same-name", ("x.jpg", PICTURE + b"1"), ("x.jpg", PICTURE + b"2"))
    keep("macos", ("__MACOSX/._x.jpg", b"\0\5\x16\7"))
    # fields of the second entry in the directory: flags, method, crc, packed, size, name length, offset
    changes: list[tuple[str, int, str, int]] = [
        ("encrypted", 8, "<H", 1),
        ("method", 10, "<H", 97),
        ("crc", 16, "<I", 1),
        ("packed-less", 20, "<I", 20),
        ("packed-more", 20, "<I", 100_000),
        ("packed-huge", 20, "<I", 0xFFFFFFFE),
        ("size-less", 24, "<I", 20),
        ("size-more", 24, "<I", 100_000),
        ("size-huge", 24, "<I", 0xFFFFFFFE),
        ("offset-first", 42, "<I", 0),
        ("offset-far", 42, "<I", 0x7FFFFFFF),
        ("offset-inside", 42, "<I", 33),
    ]
    for name, field, form, value in changes:
        path = keep(name, ("x.jpg", PICTURE))
        data = bytearray(path.read_bytes())
        second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
        struct.pack_into(form, data, second + field, value)
        path.write_bytes(data)
    path = keep("name-too-long", ("x.jpg", PICTURE))
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    struct.pack_into("<H", data, second + 28, 0xFFFF)
    path.write_bytes(data)
    return out


def test_a_compression_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.jpg", PICTURE)
    with pytest.raises(normcli.NoInputError, match="packed by bzip2; only stored and deflated members are read"):
        normcli.stats(path)


def test_thirty_hostile_zips_are_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    zips = hostile_zips(tmp_path / "in")
    assert len(zips) >= 30
    before = sorted(tmp_path.rglob("*"))
    for name, (path, others) in zips.items():
        (images, failed, skipped), whole = outcome_and_whole(path)
        if name == "offset-first":  # one place, two names: neither can be trusted
            assert images <= 1
        else:
            assert images == {"same-name": 3}.get(name, 1), (name, failed)
        listed = images + failed.total() + skipped.total() - whole
        assert listed == 1 + others or (whole == 1 and listed <= 1 + others), (name, failed, skipped)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_inflates_only_as_far_as_allowed(tmp_path: Path) -> None:
    from normcli.sources.zip import _inflated

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(64 << 20)) + packer.flush()
    for claimed in (10, 64 << 20, 1 << 40):
        with pytest.raises(normcli.errors.InputError) as caught:
            if len(_inflated(packed, claimed, 1 << 30)) != claimed:
                raise normcli.errors.InputError("damaged", "")
        assert caught.value.reason in ("bomb", "damaged")


def test_a_member_of_no_bytes_expands_to_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<II", data, data.index(b"PK\1\2") + 20, 0, 5 << 20)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(normcli.NoInputError, match="claims 5242880 bytes of an empty member"):
        normcli.stats(tmp_path / "a.zip")


@pytest.mark.parametrize(("head", "reason"), [(b"BM", None), (b"\x89PNG", "bomb"), (b"\0\0\2\0", None), (b"", "bomb")])
def test_only_plain_formats_shrink_99_times(head: bytes, reason: str | None) -> None:
    from normcli.sources.zip import _inflated

    data = head + np.random.default_rng(0).bytes(100_000) + bytes(9_900_000)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    assert 90 < len(data) / len(packed) < 100
    if reason is None:
        assert _inflated(packed, len(data), 1 << 30) == data
        return
    with pytest.raises(normcli.errors.InputError, match="more than 20 times") as caught:
        _inflated(packed, len(data), 1 << 30)
    assert caught.value.reason == reason


@pytest.mark.parametrize("row", packing.ROWS)
def test_every_container_gives_the_folders_state(row: str, folder: Path, tmp_path: Path) -> None:
    _, pack = packing.ROWS[row]
    out = tmp_path / "packed"
    out.mkdir()
    sources = pack(folder, out)
    plain = normcli.stats(folder, group_by="folder")
    packed = normcli.stats(sources, group_by="folder")
    assert packed.to_json() == plain.to_json()
    assert isinstance(plain, Summary)


def test_every_container_has_a_row() -> None:
    from normcli.sources import CONTAINERS

    # they hold arrays, not files: see the tests of arrays, import strings, videos, robots and volumes
    alone = {"npy", "idx", "python", "video", "lerobot", "nifti", "hdf5", "zarr"}
    assert {kind for kind, _ in packing.ROWS.values()} == set(CONTAINERS) - alone


@pytest.mark.parametrize(("records", "images"), [(900, 1), (200_000, 0)])
def test_a_pax_header_has_so_many_records(records: int, images: int, tmp_path: Path) -> None:
    """35 KB of gzip held 20 headers of 200,000 records each, whose parsing took 68 s, in quadratic time."""
    data = b"5 a=\n" * records
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = b"x", len(data)
    picture = encoded(photograph(8, 8))
    member = tarfile.TarInfo("a.png")
    member.size = len(picture)
    archive = header.tobuf() + data + bytes(-len(data) % 512)
    archive += member.tobuf() + picture + bytes(-len(picture) % 512) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(archive)
    (tmp_path / "b.png").write_bytes(picture)
    failures: list[Any] = []
    summary = normcli.stats([tmp_path / "a.tar", tmp_path / "b.png"], on_failure=failures.append)
    assert summary.images == 1 + images
    assert images or "more than 1000 records" in failures[0].message
