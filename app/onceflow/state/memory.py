"""One memory budget for all stores of a process, and RocksDB's options that keep to it.

RocksDB's memory is the block cache (data, indexes and filters, which would otherwise live outside)
and the memtables. Both are shared by all stores: memtables are charged to the same cache, so that
the budget's total bounds their sum, and a quarter of it bounds the memtables. When they reach it,
the store that is writing flushes. Outside the budget remain RocksDB's open files (bounded per
store), the buffers of at most one compaction and one flush per process, and iterators.

Writers are never stalled on the budget (``allow_stall``): memory held by an idle store's
memtables is freed only by flushing that store, so a stalled writer could wait for ever. Idle
stores are flushed by age instead (``MemoryBudget.flush_old``).
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    WriteBufferManager,
)

from onceflow.errors import ConfigError
from onceflow.limits import STORE_MEMORY_BYTES_MIN, STORE_OPEN_FILES_MAX, STORE_STALL_S_MAX

if TYPE_CHECKING:
    from collections.abc import Generator

    from onceflow.state.task_store import TaskStore

_MEMTABLE_SHARE = 4
"""Memtables get one part in four: reads of a warm state gain more from the cache."""

_STALL_STEP_S = 0.001
"""Step of waiting for flushes; one takes some 10 ms."""

_ARENA_BYTES = 64 * 1024
"""Step in which a memtable grows. RocksDB's default, 1 MB, times tasks times tables would take
the whole budget with a handful of rows each."""

_MEMTABLE_BYTES = 4 * 1024 * 1024
"""Size at which one memtable is flushed, below a quarter of the memtables' budget. Small ones
stay in the processor's cache: inserting a random row takes 0.8 us instead of the 1.7 us of one of
32 MB."""

_MEMTABLES_MAX = 8
"""Memtables of a family that may wait for their flush before a write stalls, with the interpreter
held. The budget bounds their bytes long before."""

_L0_MERGE_FILES = 8
_L1_BYTES = 16 * 1024 * 1024
_FILE_BYTES = 8 * 1024 * 1024
"""Shape of the tree. The first level is as large as what is merged into it at once; with RocksDB's
default of 256 MB every merge rewrites the whole table: measured with 12 tables of 16 MB, half of
the processor time per row (1.1 instead of 1.8 us) and a third of the stalls."""

_L0_SLOWDOWN_FILES = 32
_L0_STOP_FILES = 64
"""Unmerged files at which RocksDB delays and stops writers: later than by default, because files
are small and a delayed write delays the whole worker."""

_BLOCK_BYTES = 8 * 1024
"""Size of a data block before compression: small enough for point reads, twice the default
because rows are small and each block costs an index entry."""

_BLOOM_BITS = 10
"""Bits per key of the filters: 1 % of the reads of missing keys go to disk."""


class MemoryBudget:
    """The bytes that all stores of this process may use together.

    Args:
        total_bytes: bound on block cache and memtables together.

    Raises:
        ConfigError: the budget is too small to work with; raise the setting.
    """

    def __init__(self, total_bytes: int) -> None:
        if total_bytes < STORE_MEMORY_BYTES_MIN:
            raise ConfigError(
                f"A memory budget of {total_bytes} bytes for local state is below the least that "
                f"works, {STORE_MEMORY_BYTES_MIN}. Raise the setting."
            )
        self.total_bytes: Final = total_bytes
        self.memtable_bytes_max: Final = total_bytes // _MEMTABLE_SHARE
        self._cache: Final = Cache(total_bytes)
        self._write_buffers: Final = WriteBufferManager.new_write_buffer_manager_with_cache(
            self.memtable_bytes_max, allow_stall=False, cache=self._cache
        )
        self._stores: Final[WeakSet[TaskStore]] = WeakSet()
        self._registry_lock: Final = Lock()
        """Stores come on the event loop and go on the thread that closes them, while a restoring
        thread looks at all of them."""

    def register(self, store: TaskStore) -> None:
        """Count ``store`` among those that are flushed by age. It leaves when it is closed."""
        with self._registry_lock:
            self._stores.add(store)

    def unregister(self, store: TaskStore) -> None:
        """Forget a closed store. Idempotent."""
        with self._registry_lock:
            self._stores.discard(store)

    def _registered(self) -> tuple[TaskStore, ...]:
        with self._registry_lock:
            return tuple(self._stores)

    def after_write(self, now_ms: int) -> None:
        """Keep the promises that a write may have broken; every write of every store ends here.

        Stores whose oldest unflushed row is due are flushed in the background, idle ones too, which
        bounds what a killed worker replays. Where memtables exceed their share, all stores are
        flushed and the caller waits, without holding the interpreter: flushes that cannot keep up
        (a slow disk, a busy machine) must slow the worker down rather than fill its memory.
        """
        for store in self._registered():
            store.flush_if_old(now_ms)
        if self.memtable_bytes() <= self.memtable_bytes_max:
            return
        for store in self._registered():
            store.flush()
        until_s = monotonic() + STORE_STALL_S_MAX
        while self.memtable_bytes() > self.memtable_bytes_max and monotonic() < until_s:
            sleep(_STALL_STEP_S)

    @contextmanager
    def pressure(self) -> Generator[None, None, None]:
        """Make the next write of any store flush all its column families, in the background.

        rocksdict's ``flush`` flushes one column family, also under ``atomic_flush``: a position
        could reach the disk without its rows (seen with rocksdict 0.3.29: after a kill the position
        was there and the tables were empty). A full write buffer flushes all families atomically,
        so the budget pretends to be full for the duration of one write.
        """
        self._write_buffers.set_buffer_size(1)
        try:
            yield
        finally:
            self._write_buffers.set_buffer_size(self.memtable_bytes_max)

    def cache_bytes(self) -> int:
        """Bytes in the cache, memtables included."""
        return self._cache.get_usage()

    def memtable_bytes(self) -> int:
        """Bytes of all memtables of all stores."""
        return self._write_buffers.get_usage()

    def options(self) -> Options:
        """Options of a database and of each of its column families."""
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self._cache)
        blocks.set_block_size(_BLOCK_BYTES)
        blocks.set_bloom_filter(_BLOOM_BITS, block_based=False)
        blocks.set_cache_index_and_filter_blocks(v=True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(v=True)
        blocks.set_format_version(5)
        options = Options(raw_mode=True)
        options.create_if_missing(create_if_missing=True)
        options.create_missing_column_families(create_missing_cfs=True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self._write_buffers)
        options.set_write_buffer_size(min(_MEMTABLE_BYTES, self.memtable_bytes_max // 4))
        options.set_max_write_buffer_number(_MEMTABLES_MAX)
        options.set_max_bytes_for_level_base(_L1_BYTES)
        options.set_target_file_size_base(_FILE_BYTES)
        options.set_level_zero_file_num_compaction_trigger(_L0_MERGE_FILES)
        options.set_level_zero_slowdown_writes_trigger(_L0_SLOWDOWN_FILES)
        options.set_level_zero_stop_writes_trigger(_L0_STOP_FILES)
        options.set_arena_block_size(_ARENA_BYTES)
        options.set_atomic_flush(atomic_flush=True)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        options.set_max_open_files(STORE_OPEN_FILES_MAX)
        options.set_level_compaction_dynamic_level_bytes(v=True)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1024 * 1024)
        options.set_stats_dump_period_sec(0)
        return options
