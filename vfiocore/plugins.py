"""Find, filter, import, check and register plugins; resolve a backend's hook callers once."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import threading
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy
from attrs import evolve, field, frozen

from vfiocore import hookspecs, undo
from vfiocore.config._words import suggestion
from vfiocore.config.model import PluginFilter
from vfiocore.config.validate import KNOWN_PROVIDERS
from vfiocore.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    MissingPluginError,
    PluginError,
    PluginVersionError,
)
from vfiocore.hookspecs import API_VERSION, ENTRY_POINT_GROUP, PROJECT
from vfiocore.log import Log
from vfiocore.registration import Backend, Command, DeviceType, HostType

if TYPE_CHECKING:
    from vfiocore.access import DeviceAccess
    from vfiocore.container import Attachment, Batch, Container
    from vfiocore.registration import ContextRequest

Record = TypeVar("Record", Backend, DeviceType, HostType, Command)

PROVIDERS = types.MappingProxyType(
    {**KNOWN_PROVIDERS, "legacy": "vfiocore-legacy", "sim": "vfiocore-sim"}
)
"""Where the well-known names come from, for the message when one is missing."""


RECORDS: Mapping[str, type] = types.MappingProxyType(
    {
        "vfio_register_backends": Backend,
        "vfio_register_device_types": DeviceType,
        "vfio_register_hosts": HostType,
        "vfio_register_commands": Command,
    }
)
"""What the registration hooks return."""


@frozen
class BackendHooks:
    """The resolved callers of one backend: its implementations inside every wrapper."""

    setup_context: Callable[[ContextRequest], Attachment]
    teardown_context: Callable[[Attachment], None]
    open_device: Callable[[Attachment], DeviceAccess]
    close_device: Callable[[Attachment, DeviceAccess], None]
    dma_map: Callable[[Container, Batch], None]
    dma_unmap: Callable[[Container, Batch], None]


@frozen
class PluginInfo:
    """A plugin that was found, whether or not it could be used.

    Attributes:
        name: The entry point's name, or the module's for one that was passed in.
        distribution: ``vfiocore-iommufd 0.1.0``; empty for one that was passed in.
        state: ``loaded``, ``blocked`` or ``broken``.
        provides: What it registered: ``backend iommufd``.
        reason: Why it is not loaded.
    """

    name: str
    distribution: str
    state: str
    provides: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution})" if self.distribution else self.name


@frozen(eq=False)
class _Loaded:
    """A registered plugin and its records."""

    info: PluginInfo
    plugin: object
    backends: tuple[Backend, ...] = field(converter=tuple)
    device_types: tuple[DeviceType, ...] = field(converter=tuple)
    hosts: tuple[HostType, ...] = field(converter=tuple)
    commands: tuple[Command, ...] = field(converter=tuple)


class PluginSet:
    """The plugins of one framework. Independent of every other set in the process."""

    def __init__(
        self,
        plugins: Sequence[object],
        *,
        autoload: bool,
        only: PluginFilter | None = None,
        log: Log | None = None,
    ) -> None:
        """Load `plugins`, then, with `autoload`, what is installed and passes `only`.

        Raises:
            BrokenPluginError, PluginVersionError: one of `plugins` does not fit the contract.
                An installed plugin that does not costs a warning, until something names it.
        """
        self._log = log or Log()
        self._manager = _with_contract(pluggy.PluginManager(PROJECT))
        self._loaded: list[_Loaded] = []
        self._others: list[PluginInfo] = []
        self._errors: dict[PluginInfo, PluginError] = {}
        self._hooks: dict[str, BackendHooks] = {}
        for plugin in plugins:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            self._load(PluginInfo(name, "", "loaded"), plugin)
        if autoload:
            self._autoload(only)

    # -- what is there -----------------------------------------------------------------------
    @property
    def infos(self) -> list[PluginInfo]:
        """Every plugin that was found, by name."""
        return sorted([*(item.info for item in self._loaded), *self._others], key=str)

    @property
    def backends(self) -> list[Backend]:
        """Every registered backend."""
        return [record for item in self._loaded for record in item.backends]

    @property
    def device_types(self) -> list[DeviceType]:
        """Every registered device type."""
        return [record for item in self._loaded for record in item.device_types]

    @property
    def hosts(self) -> list[HostType]:
        """Every registered host."""
        return [record for item in self._loaded for record in item.hosts]

    @property
    def commands(self) -> list[Command]:
        """Every registered subcommand."""
        return [record for item in self._loaded for record in item.commands]

    # -- selection by name -------------------------------------------------------------------
    def backend(self, name: str) -> Backend:
        """The backend called `name`.

        Raises:
            MissingPluginError, DuplicatePluginError, BrokenPluginError
        """
        return self._only(name, "backend", lambda item: item.backends)[1]

    def device_type(self, name: str) -> DeviceType:
        """The device type called `name`; raises as `backend` does."""
        return self._only(name, "device type", lambda item: item.device_types)[1]

    def host(self, name: str) -> HostType:
        """The host type called `name`; raises as `backend` does."""
        return self._only(name, "host", lambda item: item.hosts)[1]

    def hooks(self, backend: str) -> BackendHooks:
        """The backend's hook callers; resolved at the first call."""
        if backend not in self._hooks:
            provider, _ = self._only(backend, "backend", lambda item: item.backends)
            self._hooks[backend] = self._resolve(backend, provider)
        return self._hooks[backend]

    def missing(self, kind: str, name: str) -> PluginError:
        """Why nothing provides `name`, as the exception to raise."""
        known = self.known_fault(kind, name)
        if known is not None:
            return known
        broken = [info for info in self._others if info.state == "broken"]
        failed = f"; these plugins failed to load: {', '.join(map(str, broken))}" if broken else ""
        there = suggestion(name, self._names(kind), f"installed {kind}s")
        return MissingPluginError(
            f"no plugin provides {kind} {name!r}: install a plugin that provides it ({there}){failed}"
        )

    def _names(self, kind: str) -> list[str]:
        """The names of one kind that are there to be chosen; `missing` says what kinds there are."""
        found: dict[str, Iterable[Backend | DeviceType | HostType]] = {
            "backend": self.backends,
            "device type": self.device_types,
            "host": self.hosts,
        }
        return [record.name for record in found[kind]]

    def known_fault(self, kind: str, name: str) -> PluginError | None:
        """Why nothing provides `name`, where it is known what would; None if it is not.

        What would is a plugin that is blocked or broken, or one of this project's own that is
        not installed.
        """
        provider = PROVIDERS.get(name)
        for info in self._others:
            if name != info.name and provider != _distribution_name(info):
                continue
            if info.state == "blocked":
                return MissingPluginError(
                    f"{kind} {name!r}: plugin {info} is {info.reason}: change that to use it"
                )
            error = self._errors[info]
            return type(error)(f"{kind} {name!r}: {error}")
        if provider is None:
            return None
        return MissingPluginError(f"no plugin provides {kind} {name!r}: install {provider}")

    # -- loading -----------------------------------------------------------------------------
    def _autoload(self, only: PluginFilter | None) -> None:
        points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        for point in sorted(points, key=lambda point: (point.name, point.value)):
            info = PluginInfo(point.name, _distribution(point), "loaded")
            reason = _blocked(info, only)
            if reason:
                self._others.append(_unusable(info, "blocked", reason))
                continue
            try:
                self._load(info, _imported(info, point))
            except PluginError as error:
                broken = _unusable(info, "broken", str(error))
                self._others.append(broken)
                self._errors[broken] = error
                self._log.warn_of(
                    "plugin.broken",
                    f"{error}; it is not used",
                    plugin=info.name,
                    distribution=info.distribution,
                )

    def _load(self, info: PluginInfo, plugin: object) -> None:
        if any(item.plugin is plugin for item in self._loaded):
            return
        wanted = getattr(plugin, "VFIOCORE_API", API_VERSION)
        if wanted != API_VERSION:
            raise PluginVersionError(
                f"plugin {info} was written for version {wanted} of the plugin contract,"
                f" this vfiocore has version {API_VERSION}: install matching versions"
            )
        try:
            # Numbered: two plugins may have one name, such as two objects of one class.
            self._manager.register(plugin, name=f"{info}#{len(self._loaded)}")
            self._manager.check_pending()
            loaded = self._records(info, plugin)
            self._check_hooks(loaded)
        except Exception as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            if isinstance(error, BrokenPluginError):
                raise
            raise BrokenPluginError(
                f"plugin {info} breaks the contract: {_described(error)}"
            ) from error
        self._loaded.append(loaded)

    def _records(self, info: PluginInfo, plugin: object) -> _Loaded:
        records = {
            hook.removeprefix("vfio_register_"): tuple(self._registered(info, plugin, hook))
            for hook in RECORDS
        }
        provides = [
            f"{kind.removesuffix('s').replace('_', ' ')} {record.name}"
            for kind, found in records.items()
            for record in found
        ]
        complete = PluginInfo(info.name, info.distribution, "loaded", tuple(provides))
        return _Loaded(complete, plugin, **records)

    def _registered(self, info: PluginInfo, plugin: object, hook: str) -> Iterable[Any]:
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            if _wraps(implementation):
                raise BrokenPluginError(f"plugin {info} wraps {hook}, which cannot be wrapped")
            for record in implementation.function():
                if not isinstance(record, RECORDS[hook]):
                    raise BrokenPluginError(
                        f"plugin {info}: {hook} gave a {type(record).__name__},"
                        f" not a {RECORDS[hook].__name__}"
                    )
                yield record

    def _check_hooks(self, loaded: _Loaded) -> None:
        """Refuse hooks that would never run: those of a backend, in a plugin that has none."""
        if loaded.backends:
            return
        for caller in self._manager.get_hookcallers(loaded.plugin) or ():
            if caller.name in RECORDS:
                continue
            for implementation in caller.get_hookimpls():
                if implementation.plugin is loaded.plugin and not _wraps(implementation):
                    raise BrokenPluginError(
                        f"plugin {loaded.info} implements {caller.name} but registers no backend:"
                        f" register one, or make it a wrapper (@hookimpl(wrapper=True))"
                    )

    # -- resolving ---------------------------------------------------------------------------
    def _only(
        self, name: str, kind: str, records: Callable[[_Loaded], tuple[Record, ...]]
    ) -> tuple[_Loaded, Record]:
        found = [
            (item, record)
            for item in self._loaded
            for record in records(item)
            if record.name == name
        ]
        if not found:
            raise self.missing(kind, name)
        if len(found) > 1:
            names = " and ".join(str(item.info) for item, _ in found)
            raise DuplicatePluginError(
                f"{kind} {name!r} is provided by {names}: remove one of them,"
                f" or block it with plugins.block"
            )
        return found[0]

    def _resolve(self, backend: str, provider: _Loaded) -> BackendHooks:
        manager = _with_contract(_SilentManager(PROJECT))
        number = itertools.count()
        for item in self._loaded:
            for caller in self._manager.get_hookcallers(item.plugin) or ():
                for implementation in caller.get_hookimpls():
                    if implementation.plugin is not item.plugin:
                        continue
                    if _wraps(implementation) or item is provider:
                        single = types.SimpleNamespace(**{caller.name: implementation.function})
                        manager.register(single, name=f"{item.info}#{next(number)}")
        hooks = BackendHooks(
            setup_context=_caller(manager, "vfio_setup_context", backend, provider),
            teardown_context=_caller(manager, "vfio_teardown_context", backend, provider),
            open_device=_caller(manager, "vfio_open_device", backend, provider),
            close_device=_caller(manager, "vfio_close_device", backend, provider),
            dma_map=_caller(manager, "vfio_dma_map", backend, provider),
            dma_unmap=_caller(manager, "vfio_dma_unmap", backend, provider),
        )
        teardown = _own(manager, "vfio_teardown_context")
        close = _own(manager, "vfio_close_device")
        return evolve(
            hooks,
            setup_context=_keeping(
                manager, "vfio_setup_context", hooks.setup_context, lambda _, made: teardown(made)
            ),
            open_device=_keeping(manager, "vfio_open_device", hooks.open_device, close),
        )


def filter_from_environment(environ: Mapping[str, str]) -> PluginFilter:
    """Read ``VFIOCORE_PLUGINS``: ``a,b`` allows just these, ``-a`` blocks that one."""
    names = [name.strip() for name in environ.get("VFIOCORE_PLUGINS", "").split(",")]
    allow = tuple(name for name in names if name and not name.startswith("-"))
    block = tuple(name[1:] for name in names if name.startswith("-"))
    return PluginFilter(allow=allow or None, block=block)


def _with_contract(manager: pluggy.PluginManager) -> pluggy.PluginManager:
    manager.add_hookspecs(hookspecs)
    return manager


class _SilentManager(pluggy.PluginManager):
    """For implementations whose authors were warned before, when their plugins were loaded."""

    def parse_hookspec_opts(self, module_or_class: types.ModuleType | type, name: str) -> Any:
        opts = super().parse_hookspec_opts(module_or_class, name)
        return opts and {**opts, "warn_on_impl": None, "warn_on_impl_args": None}


def _caller(
    manager: pluggy.PluginManager, hook: str, backend: str, provider: _Loaded
) -> Callable[..., Any]:
    """A positional caller: the function itself if nothing wraps it, pluggy's otherwise."""
    caller = getattr(manager.hook, hook)
    implementations = caller.get_hookimpls()
    own = [item for item in implementations if not _wraps(item)]
    if not own:
        raise BrokenPluginError(
            f"plugin {provider.info} registers backend {backend!r} but does not implement {hook}"
        )
    names = caller.spec.argnames
    if len(implementations) == 1 and tuple(own[0].argnames) == tuple(names):
        function: Callable[..., Any] = own[0].function
        return function

    def call(*args: object) -> Any:
        return caller(**dict(zip(names, args, strict=True)))

    return call


class _Made(threading.local):
    """What the backend made in the hook call that is under way on a thread."""

    result: Any = None


def _keeping(
    manager: pluggy.PluginManager,
    hook: str,
    call: Callable[[Any], Any],
    take_back: Callable[..., Any],
) -> Callable[[Any], Any]:
    """A caller that lets nothing get lost which the backend made and a wrapper did not pass on.

    The backend's own function takes it back, without the wrappers: one of them is at fault.
    """
    if not any(map(_wraps, getattr(manager.hook, hook).get_hookimpls())):
        return call
    made = _Made()

    @hookspecs.hookimpl(wrapper=True, trylast=True)
    def innermost() -> Generator[None, Any, Any]:
        made.result = yield
        return made.result

    manager.register(types.SimpleNamespace(**{hook: innermost}), name=f"what {hook} made")

    def kept(argument: Any) -> Any:
        # A wrapper may open something of its own meanwhile.
        outer, made.result = made.result, None
        try:
            result = call(argument)
        except BaseException as error:
            if made.result is not None:
                undo.take_back([lambda: take_back(argument, made.result)], error)
            raise
        else:
            if result is None and made.result is not None:
                take_back(argument, made.result)
            return result
        finally:
            made.result = outer

    return kept


def _own(manager: pluggy.PluginManager, hook: str) -> Callable[..., Any]:
    """A positional caller of the backend's own implementation."""
    caller = getattr(manager.hook, hook)
    (own,) = (item for item in caller.get_hookimpls() if not _wraps(item))
    wanted = [caller.spec.argnames.index(name) for name in own.argnames]

    def call(*args: Any) -> Any:
        return own.function(*(args[at] for at in wanted))

    return call


def _wraps(implementation: pluggy.HookImpl) -> bool:
    return bool(implementation.wrapper or implementation.hookwrapper)


def _imported(info: PluginInfo, point: importlib.metadata.EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever an import raises is the plugin's fault
        raise BrokenPluginError(
            f"plugin {info} cannot be imported: {_described(error)}: mend or remove it"
        ) from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _distribution_name(info: PluginInfo) -> str:
    return _normalised(info.distribution.partition(" ")[0])


def _normalised(name: str) -> str:
    """The name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else ""


def _blocked(info: PluginInfo, only: PluginFilter | None) -> str:
    if only is None:
        return ""
    names = {_normalised(info.name), _distribution_name(info)}
    if not names.isdisjoint(map(_normalised, only.block)):
        return "blocked by plugins.block"
    if only.allow is not None and names.isdisjoint(map(_normalised, only.allow)):
        return "not in plugins.allow"
    return ""


def _unusable(info: PluginInfo, state: str, reason: str) -> PluginInfo:
    return PluginInfo(info.name, info.distribution, state, reason=reason)
