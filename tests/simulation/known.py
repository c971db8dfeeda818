"""A run that notices the loss of each safeguard: the tests try it first, and others if it does not fail.

A change of the code may make something else of a seed; then the tests take longer, until the new ones stand
here: `python -m tests.simulation.ablation known` prints them.
"""

from typing import Final

KNOWN: Final[dict[str, str]] = {
    "rows and positions in one transaction": "a_zombies_poorer_record_last_then_compaction",
    "waiting for acknowledgements before writing": "seed 78",
    "a failed send takes the shards back": "seed 9",
    "only shards opened in this epoch are read": "a_changelog_loses_its_end",
    "positions captured with the rows, not after": "state_and_positions_are_of_one_moment",
    "auctions captured with the positions, not after": "state_and_positions_are_of_one_moment",
    "facts merged part by part": "results_before_and_after_the_auction_is_forgotten",
    "versions in the fact's key": "results_before_and_after_the_auction_is_forgotten",
    "the rewind": "an_open_auction_survives_a_lost_disk",
    "file auctions never with others' positions": "a_file_ahead_in_bids_and_behind_in_closes",
    "the watermark, not the newest record": "an_older_close_after_an_outage",
    "the watermark, not the wall clock": "an_older_close_after_an_outage",
    "the frontier: other shards' unread events": "an_event_on_the_wrong_partition_of_a_lagging_shard",
    "moved events read to an end asked for afterwards": "a_moved_event_behind_an_answer_on_its_way",
    "a position that Kafka refuses reloads the shards": "a_changelog_loses_its_end",
    "memory is written before that reload": "a_changelog_loses_what_only_memory_has",
    "rows are published again after a lost end": "a_changelog_loses_its_end",
    "rows published again have their facts' content": "a_changelog_loses_its_end",
    "records lost unread are said": "retention_overtakes_a_worker_that_is_down",
    "the metrics position waits for what is due": "a_stalled_owners_metrics_read_before_a_crash",
    "a standby is let go of before the owner opens": "a_standby_is_promoted_and_demoted_again",
    "a shard in use is not followed yet": "a_placement_comes_while_a_shard_is_released",
    "a released standby may be wanted again": "seed 988",
    "a standby writes nothing after a torn checkpoint": "a_standbys_checkpoint_is_cut_short",
    "a standby remembers that its rows are ahead": "only_a_standby_has_what_the_changelog_lost",
    "a standby out of range starts anew": "only_a_standby_has_what_the_changelog_lost",
    "a standby's consumer may not start at first": "kafka_is_away_when_the_first_standby_comes",
    "terms in claims": "a_stalled_owner_claims_its_shards",
    "a superseded close's winner is told the standing one": "a_superseded_close_was_first_in_an_earlier_life",
    "winners of superseded closes are remembered": "a_winner_without_a_bid_is_replaced",
    "an explicit fact: no outcome": "a_winner_without_a_bid_is_replaced",
    "bids above the cutoff wait": "seed 91",
    "an empty disk finds the cutoff with the commit": (
        "an_empty_disk_knows_the_cutoff_before_it_reads_an_event"
    ),
    "expired parts are not joined": "a_zombie_sends_expired_facts_again",
    "expired facts are not sent": "an_old_topic_read_again_sends_nothing",
    "expired facts that are read are tombstoned": "a_zombie_sends_expired_facts_again",
    "what lives of an expired fact is sent first": "a_bid_survives_the_fact_that_brought_it",
    "rows are swept once the cutoff is written": "a_cutoff_moves_over_rows_that_no_checkpoint_has_written",
    "the cutoff in the file": "outcomes_age_away_everywhere",
    "the marker is kept in the file, not only applied": "an_agent_is_forgotten_everywhere",
    "the marker is kept in memory, not only applied": "a_part_of_an_agents_past_is_forgotten",
    "the marker is applied, not only kept": "an_agent_is_forgotten_everywhere",
    "the marker is applied to rows in memory, too": "rows_that_no_checkpoint_has_written_are_forgotten",
    "the latest marker stands": "forgotten_until_then_until_earlier",
    "a marker's key names its moment": "forgotten_until_then_until_later",
    "a standby refuses what is forgotten": "seed 2 forgetting",
    "markers are published again after a lost end": "a_changelog_loses_a_marker",
    "a forgotten agent's record becomes a tombstone": "an_agent_is_forgotten_everywhere",
    "the facts behind forgotten rows are tombstoned": "outcomes_age_away_everywhere",
    "a corrected price is taken out of the sums": "outcomes_age_away_everywhere",
    "sums in the transaction of their rows": "a_crash_once_sums_are_written",
    "how far rows are counted, in the transaction of the sums": "a_crash_once_counted_rows_are_written",
    "rows that are still to be counted change no sums": "outcomes_expire_while_rows_are_counted",
    "a file without a strategy's stamp is counted": "a_strategy_is_on_then_off_then_on",
    "sums and stamp go when a strategy is off": "a_strategy_is_on_then_off_then_on",
    "rows in memory are counted, too": "a_rolling_restart_mixes_settings",
    "what expires and what is forgotten leaves the sums": "outcomes_age_away_everywhere",
    "a snapshot of another incarnation is refused": "the_same_topics_with_another_incarnation",
    "a snapshot that the changelog does not know is refused": (
        "a_changelog_loses_its_end_and_grows_beyond_a_snapshot"
    ),
    "a snapshot beyond the changelog's end is refused": "topics_are_made_anew_and_a_snapshot_is_beyond_them",
    "no two snapshots have the same name": "a_lost_disk_takes_a_snapshot",
    "a snapshot made while an agent is forgotten is taken back": (
        "an_agent_is_forgotten_while_a_snapshot_is_made"
    ),
    "a snapshot from before a marker that nobody took back is deleted": (
        "a_worker_dies_before_it_takes_a_snapshot_back"
    ),
    "a barrier at the end of the old changelog": "a_zombie_commits_between_two_runs_of_a_step",
    "sources from the rewind offsets, not the committed ones": "seed 4",
    "commits inherited before the barriers": "a_zombie_commits_behind_the_barrier",
    "a group for each layout": "a_zombie_commits_after_the_switch",
    "rerouted events are copied": "seed 45",
    "the earliest cutoff": "a_silent_shards_outcomes_outlive_a_reshard",
    "forget markers are copied": "seed 0 forgetting",
    "rewind offsets are copied with the offsets": "seed 7",
    "the old group's workers look at the record": "seed 0",
}
