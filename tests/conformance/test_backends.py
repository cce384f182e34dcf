"""Every backend of this repository passes the suite that is given to authors of others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from vfiocore.log import VfioWarning
from vfiocore.testing import BackendSuite, BackendUnderTest
from vfiocore.testing.topics.limits import OverlapAndLimits, Ranges
from vfiocore.testing.topics.mapping import BatchRollback, MapAndUnmap

from . import backends


class TestType1v2(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.legacy()


class TestType1(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.type1_version_1()


class TestLargePages(MapAndUnmap, OverlapAndLimits, BatchRollback, Ranges):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.large_pages()


class TestEmulatedType1(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.emulated_type1()


class TestNoIommu(BackendSuite):
    @pytest.fixture
    def backend(self) -> Iterator[BackendUnderTest]:
        with warnings.catch_warnings():
            # That there is no protection is told at each opening.
            warnings.simplefilter("ignore", VfioWarning)
            yield backends.noiommu()


class TestIommufd(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.iommufd()


class TestIommufdWithoutFiles(BackendSuite):
    @pytest.fixture
    def backend(self) -> BackendUnderTest:
        return backends.iommufd_without_files()
