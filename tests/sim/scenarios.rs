//! Named scenarios: each found seed and each promise of the design as a plan of its own.

use std::sync::Arc;

use walhub_hub::api::settings::{Forward, ZerocopySend};
use walhub_proto::segment::SegmentSize;
use walhub_proto::syncrep::WaitLevel;

use crate::plan::{Fault, Plan};
use crate::restore::RestorePlan;
use crate::sim::Stats;

/// What must come of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// All is well, and this too.
    Well(fn(&Stats) -> bool),
    /// A checker notices, in one of these words.
    Caught(&'static [&'static str]),
}

/// A plan with a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) plan: fn() -> Plan,
    pub(crate) expect: Expect,
}

/// A flush or two, two files and the copy of a few megabytes.
const FIRST_COMMIT_NS_MAX: u64 = 300_000_000;
/// A hub may take nothing while what it has of a timeline becomes durable.
const STALLED_NS_MAX: u64 = 100_000_000;

const ANY: Expect = Expect::Well(|_| true);

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm_stream_reaches_all_standbys",
        plan: || Plan::calm(1),
        expect: Expect::Well(|stats| stats.standby_bytes > 1 << 20),
    },
    Scenario {
        name: "fast_stop_ends_every_hub",
        plan: || Plan { stop_at_end: true, ..Plan::calm(2) },
        expect: Expect::Well(|stats| stats.stops == 1),
    },
    Scenario {
        name: "power_is_lost_again_and_again",
        plan: || Plan {
            faults: vec![(Fault::HubPower, 1)],
            faults_ns: 40_000_000_000,
            fault_pause_ns: (10_000_000, 700_000_000),
            ..Plan::calm(3)
        },
        expect: Expect::Well(|stats| stats.power_losses > 5),
    },
    Scenario {
        name: "killed_again_and_again",
        plan: || Plan {
            faults: vec![(Fault::HubKill, 3), (Fault::HubStop, 1)],
            faults_ns: 40_000_000_000,
            fault_pause_ns: (10_000_000, 700_000_000),
            ..Plan::calm(4)
        },
        expect: Expect::Well(|stats| stats.kills > 5),
    },
    Scenario {
        name: "disk_is_full_now_and_then",
        plan: || Plan {
            faults: vec![(Fault::HubDiskFull, 1)],
            faults_ns: 20_000_000_000,
            ..Plan::calm(5)
        },
        expect: ANY,
    },
    Scenario {
        name: "one_failover_after_another",
        plan: || Plan {
            faults: vec![(Fault::Failover, 1), (Fault::TimelineSwitch, 1)],
            faults_ns: 20_000_000_000,
            fault_pause_ns: (50_000_000, 3_000_000_000),
            ..Plan::calm(6)
        },
        expect: Expect::Well(|stats| stats.timelines > 3),
    },
    Scenario {
        name: "power_is_lost_during_failovers",
        plan: || Plan {
            faults: vec![(Fault::Failover, 1), (Fault::TimelineSwitch, 1), (Fault::HubPower, 3)],
            faults_ns: 20_000_000_000,
            fault_pause_ns: (50_000_000, 1_000_000_000),
            ..Plan::calm(7)
        },
        expect: Expect::Well(|stats| stats.timelines > 2 && stats.power_losses > 3),
    },
    Scenario {
        name: "a_relay_is_promoted_and_its_standbys_follow",
        plan: || Plan::calm_promotion(70),
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.commits > 50),
    },
    Scenario {
        name: "power_is_lost_again_and_again_around_a_promotion",
        plan: || Plan {
            faults: vec![(Fault::HubPower, 1)],
            fault_pause_ns: (5_000_000, 100_000_000),
            ..Plan::calm_promotion(71)
        },
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.power_losses > 5),
    },
    Scenario {
        name: "killed_again_and_again_around_a_promotion",
        plan: || Plan {
            faults: vec![(Fault::HubKill, 4), (Fault::HubStop, 1), (Fault::StandbyDies, 1)],
            fault_pause_ns: (5_000_000, 100_000_000),
            ..Plan::calm_promotion(72)
        },
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.kills > 5),
    },
    Scenario {
        name: "the_disk_is_full_and_connections_break_around_a_promotion",
        plan: || Plan {
            faults: vec![(Fault::HubDiskFull, 2), (Fault::Reset, 2), (Fault::HubPower, 1)],
            ..Plan::calm_promotion(73)
        },
        expect: Expect::Well(|stats| stats.timelines == 2),
    },
    Scenario {
        name: "wal_of_another_version_is_promoted_after_clean_stops",
        plan: || Plan {
            major: 16,
            faults: vec![(Fault::HubStop, 1)],
            fault_pause_ns: (5_000_000, 300_000_000),
            ..Plan::calm_promotion(74)
        },
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.commits > 50),
    },
    Scenario {
        name: "wal_of_another_version_is_promoted_after_broken_connections",
        plan: || Plan {
            major: 18,
            record_len_max: 3 << 20,
            faults: vec![(Fault::Reset, 4), (Fault::Partition, 1)],
            fault_pause_ns: (5_000_000, 100_000_000),
            ..Plan::calm_promotion(75)
        },
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.commits > 50),
    },
    Scenario {
        name: "seed_6163dcf13e7c575_opened_a_segment_under_the_name_that_a_promotion_took_from_it",
        plan: || Plan::of_seed(0x616_3dcf_13e7_c575),
        expect: Expect::Well(|stats| stats.timelines > 1),
    },
    Scenario {
        name: "seed_6165a946c2e535b_called_a_segment_damaged_that_could_not_be_read_once",
        plan: || Plan::of_seed(0x616_5a94_6c2e_535b),
        expect: Expect::Well(|stats| stats.power_losses > 1),
    },
    Scenario {
        name: "seed_6165c317bc5b91b_passed_over_a_history_of_a_timeline_that_began_while_it_connected",
        plan: || Plan::of_seed(0x616_5c31_7bc5_b91b),
        expect: Expect::Well(|stats| stats.timelines > 3),
    },
    Scenario {
        name: "seed_6165c317bc5c098_forgot_the_header_of_the_page_that_the_first_record_begins_in",
        plan: || Plan::of_seed(0x616_5c31_7bc5_c098),
        expect: Expect::Well(|stats| stats.timelines > 1),
    },
    Scenario {
        name: "seed_6165c317bc5c825_gave_a_slot_wal_that_was_not_published",
        plan: || Plan::of_seed(0x616_5c31_7bc5_c825),
        expect: Expect::Well(|stats| stats.commits > 0),
    },
    Scenario {
        name: "seed_6165c317bc5e55a_took_what_was_received_again_for_a_proof_of_damage",
        plan: || Plan::of_seed(0x616_5c31_7bc5_e55a),
        expect: Expect::Well(|stats| stats.timelines > 1),
    },
    Scenario {
        name: "seed_615ef62796e7343_wrote_pages_of_15_after_those_of_14",
        plan: || Plan::of_seed(0x615_ef62_796e_7343),
        expect: Expect::Well(|stats| stats.timelines > 1),
    },
    Scenario {
        name: "seed_615ef9589fa34cb_wrote_pages_of_15_after_those_of_another",
        plan: || Plan::of_seed(0x615_ef95_89fa_34cb),
        expect: Expect::Well(|stats| stats.timelines > 1),
    },
    Scenario {
        name: "a_commit_of_a_promoted_hub_waits_for_its_own_timeline_when_a_standby_was_ahead_of_the_relay",
        plan: || {
            let mut plan = Plan { loses_tail: true, ..Plan::calm_promotion(74) };
            forward_received(&mut plan);
            // The hub's disk is slow, and the standbys' are not.
            plan.disks[0].slow = 300;
            plan.primary.pause_ns = (1_000_000, 50_000_000);
            plan.primary.burst = (100, 20_000);
            plan.primary.total = 32 << 20;
            for standby in &mut plan.standbys {
                (standby.flush_ns, standby.retry_ns) = ((50_000, 200_000), 100_000_000);
            }
            plan
        },
        expect: Expect::Well(|stats| stats.timelines == 2 && stats.rebuilt > 0),
    },
    Scenario {
        name: "the_first_commit_after_a_promotion_waits_for_no_more_than_is_in_use_of_a_segment",
        plan: || of_large_segments(Plan::calm_promotion(74)),
        expect: Expect::Well(|stats| {
            stats.timelines == 2 && (1..FIRST_COMMIT_NS_MAX).contains(&stats.first_commit_ns)
        }),
    },
    Scenario {
        name: "the_first_commit_after_a_promotion_with_small_segments",
        plan: || Plan {
            segment_size: SegmentSize::MIN,
            ..of_large_segments(Plan::calm_promotion(74))
        },
        expect: Expect::Well(|stats| {
            stats.timelines == 2 && (1..FIRST_COMMIT_NS_MAX).contains(&stats.first_commit_ns)
        }),
    },
    Scenario {
        name: "the_stream_goes_on_while_the_timeline_changes_in_a_large_segment",
        plan: || {
            let mut plan = of_large_segments(Plan {
                faults: vec![(Fault::TimelineSwitch, 1)],
                faults_ns: 12_000_000_000,
                // One copy ends before the next begins.
                fault_pause_ns: (2_000_000_000, 3_000_000_000),
                ..Plan::calm(75)
            });
            plan.primary.pause_ns = (1_000_000, 2_000_000);
            plan.primary.burst = (5_000, 10_000);
            plan.primary.total = 48 << 20;
            plan.primary.switch = 0;
            plan.record_len_max = 20_000;
            let settings = Arc::make_mut(&mut plan.hubs[0].settings);
            settings.tail_cache_size = 16 << 20;
            plan
        },
        expect: Expect::Well(|stats| stats.timelines > 3 && stats.stalled_ns < STALLED_NS_MAX),
    },
    Scenario {
        name: "power_is_lost_while_a_large_segment_is_copied",
        plan: || {
            let mut plan = of_large_segments(Plan {
                faults: vec![(Fault::TimelineSwitch, 1), (Fault::HubPower, 2)],
                faults_ns: 30_000_000_000,
                fault_pause_ns: (100_000_000, 600_000_000),
                ..Plan::calm(76)
            });
            plan.primary.total = 24 << 20;
            plan
        },
        expect: Expect::Well(|stats| stats.timelines > 5 && stats.power_losses > 5),
    },
    Scenario {
        name: "cascade_of_three_hubs_with_resets_and_kills",
        plan: cascade,
        expect: Expect::Well(|stats| stats.kills + stats.power_losses > 2),
    },
    Scenario {
        name: "a_policy_holds_when_everyone_dies_now_and_then",
        plan: || {
            let mut plan = Plan {
                faults: vec![
                    (Fault::HubPower, 2),
                    (Fault::HubKill, 2),
                    (Fault::StandbyDies, 4),
                    (Fault::Reset, 3),
                    (Fault::Partition, 1),
                    (Fault::Failover, 1),
                    (Fault::TimelineSwitch, 1),
                ],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (50_000_000, 4_000_000_000),
                ..Plan::calm(14)
            };
            // It lasts as long as the faults.
            plan.primary.pause_ns = (1_000_000, 100_000_000);
            plan.primary.burst = (100, 20_000);
            plan.primary.total = 16 << 20;
            let standby = plan.standbys[0].clone();
            plan.standbys.push(standby);
            plan.hubs[0].set_policy("ANY 2 (standby_0, standby_1, standby_2)");
            plan.hubs[0].cores = 3;
            plan
        },
        expect: Expect::Well(|stats| stats.promises > 100 && stats.timelines > 1),
    },
    Scenario {
        name: "standbys_go_from_core_to_core_as_they_fall_behind_and_catch_up",
        plan: || {
            let mut plan = behind_now_and_then(18);
            plan.faults = vec![(Fault::StandbyDies, 3), (Fault::Stall, 3), (Fault::Reset, 1)];
            plan
        },
        expect: Expect::Well(|stats| stats.moves > 10),
    },
    Scenario {
        name: "standbys_go_from_core_to_core_while_timelines_and_hubs_end",
        plan: || {
            let mut plan = behind_now_and_then(19);
            plan.faults = vec![
                (Fault::StandbyDies, 4),
                (Fault::Stall, 4),
                (Fault::HubStop, 2),
                (Fault::HubPower, 1),
                (Fault::TimelineSwitch, 1),
                (Fault::Failover, 1),
            ];
            plan.hubs[0].cores = 3;
            plan.hubs[0].set_policy("ANY 2 (standby_0, standby_1, standby_2, standby_3)");
            plan.sleepy = 50;
            plan
        },
        expect: Expect::Well(|stats| {
            stats.moves > 100 && stats.stops > 5 && stats.timelines > 5 && stats.promises > 100
        }),
    },
    Scenario {
        name: "slots_are_lost_while_their_standbys_go_from_core_to_core",
        plan: || {
            let mut plan = behind_now_and_then(20);
            plan.faults = vec![(Fault::StandbyDies, 1), (Fault::Stall, 3)];
            plan.slots_are_sacred = false;
            for standby in &mut plan.standbys {
                standby.slot = true;
            }
            let mut settings = (*plan.hubs[0].settings).clone();
            settings.max_slot_wal_keep_size = Some(1 << 20);
            settings.min_wal_size = 2 << 20;
            settings.wal_keep_size = 0;
            plan.hubs[0].settings = Arc::new(settings);
            plan
        },
        expect: Expect::Well(|stats| stats.moves > 10 && stats.removed > 3),
    },
    Scenario {
        name: "standbys_that_do_not_acknowledge_what_is_sent_from_the_tail_stop_nobody",
        plan: || {
            let mut plan = behind_now_and_then(29);
            plan.faults = vec![
                (Fault::Stall, 5),
                (Fault::StandbyDies, 2),
                (Fault::Reset, 1),
                (Fault::Partition, 1),
                (Fault::HubStop, 1),
            ];
            plan.primary.burst = (20_000, 200_000);
            let settings = Arc::make_mut(&mut plan.hubs[0].settings);
            settings.zerocopy_send = ZerocopySend::On;
            settings.wal_sender_message_size = 256 << 10;
            plan
        },
        expect: Expect::Well(|stats| {
            stats.released > 200 && stats.moves > 10 && stats.landed > 10 << 20
        }),
    },
    Scenario {
        name: "a_promise_that_is_not_kept_is_noticed",
        plan: || {
            let mut plan = Plan { promises_are_too_much: true, ..Plan::calm(15) };
            plan.hubs[0].set_policy("ANY 1 (standby_0, standby_1)");
            plan
        },
        expect: Expect::Caught(&["but the standbys have"]),
    },
    Scenario {
        name: "policies_of_a_cascade_compose",
        plan: || {
            let mut plan = cascade();
            for (number, hub) in plan.hubs.iter_mut().enumerate() {
                hub.upstream = number.checked_sub(1);
            }
            for (number, standby) in plan.standbys.iter_mut().enumerate() {
                standby.hub = if number == 0 { 2 } else { number % 3 };
            }
            plan.hubs[0].set_policy("hub_1");
            plan.hubs[1].set_policy("FIRST 1 (hub_2)");
            plan.hubs[2].set_policy("ANY 1 (standby_0)");
            plan.faults.push((Fault::HubStop, 2));
            plan
        },
        expect: Expect::Well(|stats| stats.promises > 4),
    },
    Scenario {
        name: "damaged_wal_never_reaches_a_standby",
        plan: || {
            let mut plan = Plan::calm(9);
            plan.primary.flip = 15;
            plan.primary.message_bytes_max = 16 << 10;
            plan
        },
        expect: Expect::Well(|stats| stats.flipped > 0),
    },
    Scenario {
        name: "a_disk_that_lies_is_noticed",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1)],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (100_000_000, 2_000_000_000),
                ..Plan::calm(10)
            };
            plan.disks[0].lies = true;
            plan
        },
        expect: Expect::Caught(&["recovered to", "cannot start", "differs from the primary's"]),
    },
    Scenario {
        name: "damage_behind_the_hub_is_noticed",
        plan: || Plan { damage: 100, ..Plan::calm(11) },
        expect: Expect::Caught(&[
            "differ from the primary's",
            "broke the protocol",
            "has not made durable",
        ]),
    },
    Scenario {
        name: "impatience_is_noticed",
        plan: || {
            let mut plan = Plan { patience_ns: 1, faults_ns: 1, ..Plan::calm(12) };
            plan.standbys[0].flush_ns = (5_000_000_000, 10_000_000_000);
            plan
        },
        expect: Expect::Caught(&["no end within"]),
    },
    Scenario {
        name: "a_segment_removed_under_a_slot_is_noticed",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::StandbyDies, 1)],
                faults_ns: 20_000_000_000,
                fault_pause_ns: (100_000_000, 1_000_000_000),
                slots_are_sacred: true,
                ..Plan::calm(13)
            };
            for standby in &mut plan.standbys {
                standby.slot = true;
            }
            plan.primary.pause_ns = (100_000_000, 200_000_000);
            plan.primary.burst = (20_000, 100_000);
            let mut settings = (*plan.hubs[0].settings).clone();
            settings.max_slot_wal_keep_size = Some(1 << 20);
            settings.min_wal_size = 2 << 20;
            settings.wal_keep_size = 0;
            plan.hubs[0].settings = Arc::new(settings);
            plan
        },
        expect: Expect::Caught(&["has a slot and only"]),
    },
    Scenario {
        name: "nothing_is_wrong_and_nobody_waits",
        plan: || {
            let mut plan = Plan::calm(30);
            plan.hubs[0].cores = 3;
            plan.make_prompt();
            plan
        },
        expect: Expect::Well(|stats| stats.standby_bytes > 1 << 20),
    },
    Scenario {
        name: "nothing_is_wrong_and_no_commit_waits",
        plan: || {
            let mut plan = Plan::calm_own(31);
            plan.hubs[0].cores = 2;
            if let Some(mut own) = plan.own.take() {
                (own.clients, own.names) = (1, String::new());
                own.levels = vec![Some(WaitLevel::LocalFlush)];
                plan.set_own(own);
            }
            plan.make_prompt();
            plan
        },
        expect: Expect::Well(|stats| stats.commits > 50),
    },
    Scenario {
        name: "standbys_read_segments_that_are_used_again",
        plan: || {
            let mut plan = behind_now_and_then(32);
            plan.faults = vec![(Fault::Stall, 5), (Fault::StandbyDies, 2)];
            plan.fault_pause_ns = (5_000_000, 200_000_000);
            plan.hubs[0].direct = true;
            // Some connections are too slow for what comes.
            (plan.net.ns_per_kib, plan.net.window) = ((1_000, 2_000_000), (50_000, 100_000));
            plan.net.short = 0;
            plan.hubs[0].max_wal_size = 6 << 20;
            let settings = Arc::make_mut(&mut plan.hubs[0].settings);
            (settings.min_wal_size, settings.wal_keep_size) = (1 << 20, 0);
            settings.tail_cache_size = 2 << 20;
            settings.wal_sender_timeout = Some(std::time::Duration::from_secs(60));
            for standby in &mut plan.standbys {
                standby.slot = false;
            }
            plan
        },
        expect: Expect::Well(|stats| stats.removed > 3),
    },
    Scenario {
        name: "power_is_lost_while_slots_let_segments_go",
        plan: || slots_let_segments_go(33),
        expect: Expect::Well(|stats| stats.power_losses > 20 && stats.segments_gone > 20),
    },
    Scenario {
        name: "a_hub_ends_while_a_slot_that_lets_segments_go_is_saved",
        plan: || Plan { faults: vec![(Fault::HubCrashAtSlot, 1)], ..slots_let_segments_go(43) },
        expect: Expect::Well(|stats| {
            stats.power_losses > 3 && stats.kills > 5 && stats.segments_gone > 20
        }),
    },
    Scenario {
        name: "slots_let_segments_go_on_a_disk_with_errors",
        plan: || {
            let mut plan = slots_let_segments_go(34);
            plan.disks[0].errors = 500;
            plan
        },
        expect: Expect::Well(|stats| stats.fatals > 1 && stats.segments_gone > 20),
    },
    Scenario {
        name: "power_is_lost_while_the_control_file_is_written",
        plan: || {
            // The control file is saved at each new segment.
            let mut plan = Plan {
                faults: vec![(Fault::HubPowerAtControl, 1)],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (5_000_000, 300_000_000),
                ..Plan::calm(35)
            };
            plan.primary.pause_ns = (1_000_000, 40_000_000);
            plan.primary.burst = (20_000, 500_000);
            plan.primary.total = 48 << 20;
            plan.primary.switch = 20;
            plan
        },
        expect: Expect::Well(|stats| stats.power_losses > 10),
    },
    Scenario {
        name: "a_disk_fails_now_and_then",
        plan: || {
            let mut plan = Plan {
                faults: vec![
                    (Fault::TimelineSwitch, 1),
                    (Fault::Failover, 1),
                    (Fault::HubPower, 3),
                ],
                faults_ns: 40_000_000_000,
                fault_pause_ns: (20_000_000, 1_000_000_000),
                ..Plan::calm(59)
            };
            plan.primary.total = 20 << 20;
            plan.disks[0].errors = 300;
            plan
        },
        expect: Expect::Well(|stats| stats.fatals > 3 && stats.timelines > 2),
    },
    Scenario {
        name: "own_wal_on_a_disk_that_fails_now_and_then",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1), (Fault::StandbyDies, 1)],
                faults_ns: 40_000_000_000,
                fault_pause_ns: (20_000_000, 1_000_000_000),
                ..Plan::calm_own(37)
            };
            plan.disks[0].errors = 300;
            plan
        },
        expect: Expect::Well(|stats| stats.fatals > 3 && stats.commits > 100),
    },
    Scenario {
        name: "what_a_recycled_segment_had_before_is_no_wal",
        plan: || {
            // Short records, so that one of before begins where a torn write ends.
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1)],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (2_000_000, 100_000_000),
                ..Plan::calm(38)
            };
            (plan.seed, plan.short_records) = (1001, true);
            plan.primary.pause_ns = (1_000_000, 40_000_000);
            plan.primary.burst = (1_000, 200_000);
            plan.primary.total = 24 << 20;
            plan.hubs[0].durable_write = false;
            let settings = Arc::make_mut(&mut plan.hubs[0].settings);
            (settings.min_wal_size, settings.wal_keep_size) = (1 << 20, 0);
            plan
        },
        expect: Expect::Well(|stats| stats.power_losses > 20),
    },
    Scenario {
        name: "other_cores_run_between_two_loads",
        plan: || {
            let mut plan = behind_now_and_then(39);
            plan.faults = vec![(Fault::StandbyDies, 3), (Fault::Stall, 3), (Fault::HubStop, 1)];
            plan.hubs[0].cores = 3;
            (plan.hubs[0].preempt, plan.sleepy) = (400, 500);
            // Short messages: memory for them is had when they come.
            plan.primary.message_bytes_max = 8 << 10;
            plan
        },
        expect: Expect::Well(|stats| cfg!(not(debug_assertions)) || stats.preempted > 1000),
    },
    Scenario {
        name: "own_wal_of_records_of_one_size_and_power_is_lost",
        plan: || records_of_one_size(1000, 0),
        expect: Expect::Well(|stats| stats.power_losses > 20),
    },
    Scenario {
        name: "own_wal_of_records_of_one_size_that_cross_segments",
        plan: || records_of_one_size(41, 150),
        expect: Expect::Well(|stats| stats.power_losses > 20),
    },
    Scenario {
        name: "own_wal_commits_at_every_level",
        plan: || Plan { stop_at_end: true, ..Plan::calm_own(20) },
        expect: Expect::Well(|stats| stats.commits > 200 && stats.stops == 1),
    },
    Scenario {
        name: "own_wal_and_power_is_lost_again_and_again",
        plan: || Plan {
            faults: vec![(Fault::HubPower, 4), (Fault::HubKill, 1), (Fault::HubStop, 1)],
            faults_ns: 40_000_000_000,
            fault_pause_ns: (10_000_000, 700_000_000),
            ..Plan::calm_own(21)
        },
        expect: Expect::Well(|stats| stats.power_losses > 5 && stats.commits > 200),
    },
    Scenario {
        name: "own_wal_of_large_records_and_power_is_lost",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1)],
                faults_ns: 40_000_000_000,
                fault_pause_ns: (10_000_000, 2_000_000_000),
                ..Plan::calm_own(22)
            };
            if let Some(own) = &mut plan.own {
                (own.content_max, own.total, own.clients) = (6 << 20, 60 << 20, 3);
            }
            plan
        },
        expect: Expect::Well(|stats| stats.power_losses > 5 && stats.wal_bytes > 10 << 20),
    },
    Scenario {
        name: "own_wal_while_standbys_die_and_networks_part",
        plan: || {
            let mut plan = Plan {
                faults: vec![
                    (Fault::StandbyDies, 3),
                    (Fault::Partition, 2),
                    (Fault::Reset, 2),
                    (Fault::Stall, 1),
                    (Fault::HubPower, 1),
                ],
                faults_ns: 40_000_000_000,
                fault_pause_ns: (10_000_000, 700_000_000),
                ..Plan::calm_own(23)
            };
            if let Some(own) = &mut plan.own {
                own.cancel = 100;
                own.think_ns.1 = 200_000_000;
            }
            plan
        },
        expect: Expect::Well(|stats| stats.commits > 200),
    },
    Scenario {
        name: "own_wal_of_equal_records_and_power_is_lost",
        plan: || {
            // What was lost and what comes in its place have the same sizes.
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1)],
                faults_ns: 40_000_000_000,
                fault_pause_ns: (5_000_000, 300_000_000),
                ..Plan::calm_own(24)
            };
            if let Some(own) = &mut plan.own {
                (own.content_max, own.requests, own.clients) = (8, 0, 30);
                own.think_ns = (10_000, 1_000_000);
                own.levels = vec![None];
            }
            plan
        },
        expect: Expect::Well(|stats| stats.power_losses > 5),
    },
    Scenario {
        name: "a_primary_that_comes_back_in_an_earlier_state_counts_no_standby_that_is_ahead_of_it",
        plan: || restored(28, false),
        expect: Expect::Well(|stats| stats.rebuilt > 1 && stats.commits > 200),
    },
    Scenario {
        name: "nor_one_that_is_ahead_within_a_segment_and_asks_for_all_of_it",
        plan: || restored(30, true),
        expect: Expect::Well(|stats| stats.rebuilt > 1 && stats.commits > 200),
    },
    Scenario {
        name: "own_wal_with_a_flipped_bit_in_the_middle_is_not_started_from",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1), (Fault::HubKill, 1)],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (1_000_000_000, 3_000_000_000),
                // A start-up reads from the bound on, which is before the middle here.
                ..Plan::calm_own(35)
            };
            plan.disks[0].rots = true;
            plan
        },
        expect: Expect::Caught(&["cannot start: WAL that was durable is damaged in file"]),
    },
    Scenario {
        name: "own_wal_on_a_disk_that_lies_is_noticed",
        plan: || {
            let mut plan = Plan {
                faults: vec![(Fault::HubPower, 1)],
                faults_ns: 60_000_000_000,
                fault_pause_ns: (100_000_000, 2_000_000_000),
                ..Plan::calm_own(25)
            };
            plan.disks[0].lies = true;
            plan
        },
        expect: Expect::Caught(&["recovered to", "cannot start", "differs from the primary's"]),
    },
    Scenario {
        name: "a_standby_that_lies_about_its_flush_is_noticed",
        plan: || {
            let mut plan = Plan::calm_own(26);
            for standby in &mut plan.standbys {
                standby.lies = true;
                standby.flush_ns = (50_000_000, 100_000_000);
            }
            plan
        },
        expect: Expect::Caught(&["standbys have that"]),
    },
    Scenario {
        name: "a_commit_that_waits_for_a_standby_that_does_not_come_is_noticed",
        plan: || {
            let mut plan = Plan { patience_ns: 20_000_000_000, ..Plan::calm_own(27) };
            if let Some(mut own) = plan.own.take() {
                own.names = "standby_7".to_owned();
                own.cancel = 0;
                plan.set_own(own);
            }
            plan
        },
        expect: Expect::Caught(&[" waits: Some"]),
    },
];

/// To copy or to fill a whole segment of these takes two thirds of a second.
fn of_large_segments(mut plan: Plan) -> Plan {
    plan.segment_size = SegmentSize::new(32 << 20).expect("a size");
    plan.disks[0].ns_per_kib = 20_000;
    plan.hubs[0].direct = true;
    if let Some(promoted) = &mut plan.promoted {
        promoted.levels = vec![Some(WaitLevel::LocalFlush)];
        promoted.content_max = 1_000;
    }
    plan
}

/// Standbys with slots that confirm in turn, so that slots are saved and segments go all the time.
fn slots_let_segments_go(seed: u64) -> Plan {
    let mut plan = Plan {
        faults: vec![(Fault::HubPower, 3), (Fault::HubKill, 1)],
        faults_ns: 40_000_000_000,
        fault_pause_ns: (5_000_000, 300_000_000),
        ..Plan::calm(seed)
    };
    for standby in &mut plan.standbys {
        (standby.slot, standby.flush_ns) = (true, (50_000, 20_000_000));
        standby.retry_ns = 10_000_000;
    }
    plan.primary.pause_ns = (1_000_000, 40_000_000);
    plan.primary.burst = (20_000, 500_000);
    plan.primary.total = 48 << 20;
    let settings = Arc::make_mut(&mut plan.hubs[0].settings);
    (settings.min_wal_size, settings.wal_keep_size) = (1 << 20, 0);
    settings.max_slot_wal_keep_size = None;
    settings.wal_retrieve_retry_interval = std::time::Duration::from_millis(20);
    plan
}

/// What a crash has lost and what comes in its place have the same sizes, and power is lost soon again.
/// `requests` of a thousand are checkpoints or end a segment.
fn records_of_one_size(seed: u64, requests: u64) -> Plan {
    let mut plan = Plan {
        faults: vec![(Fault::HubPower, 1)],
        faults_ns: if requests == 0 { 200_000_000_000 } else { 60_000_000_000 },
        fault_pause_ns: (1_000_000, 100_000_000),
        ..Plan::calm_own(seed)
    };
    (plan.hubs[0].durable_write, plan.hubs[0].direct) = (false, false);
    if let Some(own) = &mut plan.own {
        // Records of 88 bytes: what a start-up appends first is as long as two of them.
        (own.content_max, own.one_size) = (34, true);
        (own.requests, own.clients, own.think_ns) = (requests, 12, (10_000, 5_000_000));
        own.total = if requests == 0 { 2 << 20 } else { 40 << 20 };
        own.levels = vec![None];
    }
    plan
}

/// Four standbys with a small tail cache that cannot hold what comes while one is away.
fn behind_now_and_then(seed: u64) -> Plan {
    let mut plan = Plan {
        faults_ns: 40_000_000_000,
        fault_pause_ns: (20_000_000, 1_000_000_000),
        ..Plan::calm(seed)
    };
    let standby = plan.standbys[0].clone();
    plan.standbys.resize(4, standby);
    plan.primary.pause_ns = (1_000_000, 60_000_000);
    plan.primary.burst = (1_000, 200_000);
    plan.primary.total = 48 << 20;
    plan.hubs[0].cores = 1;
    plan.hubs[0].catchup_cores = 2;
    let mut settings = (*plan.hubs[0].settings).clone();
    settings.tail_cache_size = 4 << 20;
    settings.wal_keep_size = 64 << 20;
    plan.hubs[0].settings = Arc::new(settings);
    plan
}

/// Standbys get what was received, before it is durable.
fn forward_received(plan: &mut Plan) {
    for hub in &mut plan.hubs {
        Arc::make_mut(&mut hub.settings).forward = Forward::Received;
    }
}

/// A primary whose files are put aside and back later, while its standbys live. They ask for `whole`
/// segments, as PostgreSQL's walreceiver does, or begin where they are.
fn restored(seed: u64, whole: bool) -> Plan {
    let mut plan = Plan {
        restore: Some(RestorePlan { aside_ns: 4_000_000_000, back_ns: 14_000_000_000 }),
        faults_ns: 25_000_000_000,
        fault_pause_ns: (5_000_000, 100_000_000),
        ..Plan::calm_own(seed)
    };
    if whole {
        plan.segment_size = SegmentSize::new(8 << 20).expect("a size");
    }
    if let Some(mut own) = plan.own.take() {
        own.names = "ANY 1 (standby_0, standby_1, standby_2)".to_owned();
        // Slow enough that all standbys are back before what is lost is made up for.
        (own.content_max, own.requests, own.total) = (300, 0, 1 << 20);
        own.think_ns = (1_000_000, 50_000_000);
        own.levels.retain(Option::is_some);
        plan.set_own(own);
    }
    for standby in &mut plan.standbys {
        standby.whole_segments = whole;
        standby.retry_ns = 200_000_000;
        standby.flush_ns = (50_000, 5_000_000);
    }
    plan
}

fn cascade() -> Plan {
    let mut seed = 100;
    let mut plan = loop {
        let plan = Plan::of_seed(seed);
        if plan.hubs.len() == 3 && plan.own.is_none() {
            break plan;
        }
        seed += 1;
    };
    plan.faults =
        vec![(Fault::HubPower, 2), (Fault::HubKill, 1), (Fault::Reset, 3), (Fault::Partition, 1)];
    plan.fault_pause_ns = (20_000_000, 1_500_000_000);
    plan.faults_ns = 20_000_000_000;
    plan
}
