"""A seeded, replayable simulation of the real worker's code: many crashes a second, every one judged.

What is real: the worker's parts and loops, StateKeepingAssignor and `place`, Shard, StandbyState, ShardFile
with its schema and statements, wired by `Worker` itself. What is simulated: aiokafka's clients, the broker's
log and group, the disk under SQLite, the event loop and the clock. A process is one event loop; it may stop
for ever, or for a while, between any two of its callbacks.

Where each invariant is judged:

1. The outcomes are the model's: `World._check_shard`, in the changelog's fold, in the owner's file, in the
   metrics; at the end of every run.
2. One outcome a (task, agent), none missing: the same comparison; rows and model are keyed so.
3. A file is the fold of its prefix, and its metrics are its rows': `check_file`, on every file of a disk, a
   standby's too, after every crash and at the end.
4. Rows, changelog and model agree after compaction: `_compact` in storms, `_last_days`, then 1.
5. A stalled owner changes nothing, equal keys have equal content: `_zombie`, `_wake`; `check_keys`.
6. An old or empty disk, a changelog ahead or behind, one that lost its beginning or its end: `_crash`,
   `_compact` with `drop_empty_beginning`, `_last_days` with `lose_end`, then 1 and 3.
7. A poison record is not simulated: the broker tests have it. Moved events are: `wrong_share`, then 1.
8. Requests are not simulated: `requests/answering.py` has tests of its own.
9. Lag returns to 0, the owners' and the standbys': `World.settle` ends only then. Auctions are forgotten:
   `auctions_are_forgotten_nevertheless`.
10. No file is open twice in a process, none stays open behind one that ended: `Disk.violations`,
    `World.reap`.
11. Nobody writes metrics of a shard it never owned: `Producer.violations`.
12. Who truly owns shards keeps its share of them: `Group._check_kept`.
13. Retention deletes what nobody needs, or too much: of the tasks whose events are gone anything may have
    become, of all others nothing else than the model says (`World.lost_tasks`); it is said
    (`retention_overtakes_a_worker_that_is_down`).
14. Of a forgotten agent nothing of before its marker is left in any file whose position is behind the
   marker (`check_file`); at the end neither row nor metrics record is, and the changelog counts nothing of
   it (`World._check_forgotten`, 1). That its facts leave the changelog, too, directed sequences ask for.

What cannot hold, and is not asked for: a changelog that loses its end and grows past a file's position
before that file's reader polls. Its offsets then stand for other records, and aiokafka knows no leader
epochs. Unclean leader election is off by default.
"""
