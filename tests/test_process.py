"""What a process asks of the libraries below."""

import os

import pytest

from robust_tangents.process import use_avx512

AVX512 = "avx2 avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("vendor", "flags", "set_before", "expected"),
    [
        ("AuthenticAMD", AVX512, None, "SkylakeX"),
        ("AuthenticAMD", AVX512, "Zen", "Zen"),
        ("AuthenticAMD", "avx2 fma", None, None),
        ("AuthenticAMD", "avx2 avx512f", None, None),
        ("GenuineIntel", AVX512, None, None),
    ],
)
def test_openblas_is_told_of_avx512_on_amd_alone(tmp_path, monkeypatch, vendor, flags, set_before, expected):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if set_before:
        monkeypatch.setenv("OPENBLAS_CORETYPE", set_before)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu sse2 {flags} sha_ni\n")
    use_avx512(cpuinfo)
    assert os.environ.get("OPENBLAS_CORETYPE") == expected


def test_without_a_list_of_processors_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    use_avx512(tmp_path / "absent")
    assert "OPENBLAS_CORETYPE" not in os.environ
