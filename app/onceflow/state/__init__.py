"""Local state: one RocksDB per task, written only after Kafka has committed.

The only importer of rocksdict. Kafka's changelog is the truth and this room a cache of it that is
never ahead: everything here may be wiped and rebuilt, and is, with the reason told, whenever it
cannot be trusted. Imports no Kafka client and no Faust.
"""
