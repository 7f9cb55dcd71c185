//! The mutations, in the order of the modules on the way of WAL.
//!
//! Each is a text that is once in its file and another in its place, in which `MUTANT` is whether it is on. One that
//! only a certain run shows names it; otherwise any seed does. Unit tests are tried before seeds.

/// A wrong version of the code.
pub(crate) struct Mutation {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// Why that must be noticed.
    pub(crate) why: &'static str,
    pub(crate) file: &'static str,
    pub(crate) find: &'static str,
    pub(crate) replace: &'static str,
    /// Scenarios of the simulator that were made for it.
    pub(crate) scenarios: &'static [&'static str],
    /// The package and the filter of the module's unit tests.
    pub(crate) units: Option<(&'static str, &'static str)>,
}

pub(crate) const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a_write_counts_as_durable",
        why: "What was only written is gone after a power loss.",
        file: "ship/hub/src/store/writer.rs",
        find: "if flight.durable {",
        replace: "if flight.durable || MUTANT {",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_segment_is_begun_before_the_last_is_durable",
        why: "The next flush is of another file, and speaks for this one.",
        file: "ship/hub/src/store/writer.rs",
        find: "(synced || size.offset(self.write_lsn()) != 0)",
        replace: "(MUTANT || synced || size.offset(self.write_lsn()) != 0)",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_flush_covers_what_was_written_meanwhile",
        why: "A flush covers what was written when it was submitted.",
        file: "ship/hub/src/store/writer.rs",
        find: "self.progress.handle_flushed(ticket);",
        replace: r"let ticket = if MUTANT { self.progress.begin_flush() } else { ticket };
        self.progress.handle_flushed(ticket);",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_short_write_counts_as_whole",
        why: "The rest was never written.",
        file: "ship/hub/src/store/writer.rs",
        find: "if flight.taken < len {",
        replace: "if flight.taken < len && !MUTANT {",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_short_direct_write_goes_on_inside_a_block",
        why: "The device takes whole blocks only.",
        file: "ship/hub/src/store/writer.rs",
        find: "if self.direct { taken - taken % BLOCK_LEN }",
        replace: "if self.direct && !MUTANT { taken - taken % BLOCK_LEN }",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_failed_flush_counts",
        why: "After a failed flush nothing is known.",
        file: "ship/hub/src/store/writer.rs",
        find: "if let Err(error) = result {",
        replace: "if let Err(error) = result && !MUTANT {",
        scenarios: &[],
        units: Some(("walhub-hub", "store::local")),
    },
    Mutation {
        name: "what_is_durable_may_end_inside_a_record",
        why: "A start-up goes back to the end of a record.",
        file: "ship/hub/src/store/local.rs",
        find: r"        self.durable.lsn
",
        replace: r"        if MUTANT {
            return self.writer.flush_lsn();
        }
        self.durable.lsn
",
        scenarios: &[],
        units: Some(("walhub-hub", "store::local")),
    },
    Mutation {
        name: "a_record_is_durable_once_it_is_written",
        why: "Written is not durable.",
        file: "ship/hub/src/store/local.rs",
        find: r"let flush_lsn = self.writer.flush_lsn();
        while",
        replace: r"let flush_lsn = if MUTANT { self.writer.write_lsn() } else { self.writer.flush_lsn() };
        while",
        scenarios: &[],
        units: Some(("walhub-hub", "store::local")),
    },
    Mutation {
        name: "what_is_not_verified_is_passed_on",
        why: "Nothing after the last valid record may reach a standby.",
        file: "ship/hub/src/store/local.rs",
        find: r"        self.reader.verified_lsn()
",
        replace: r"        if MUTANT {
            return self.tail.end();
        }
        self.reader.verified_lsn()
",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "the_writer_is_not_set_back_with_the_tail",
        why: "What replaces wrong bytes must be written over them.",
        file: "ship/hub/src/store/local.rs",
        find: "if self.writer.write_lsn() > end {",
        replace: "if self.writer.write_lsn() > end && !MUTANT {",
        scenarios: &[],
        units: Some(("walhub-hub", "store::local")),
    },
    Mutation {
        name: "what_was_taken_back_is_believed",
        why: "Bytes that were taken back come again.",
        file: "ship/hub/src/store/tail.rs",
        find: "let end = range.end.min(slab.end()).min(superseded);",
        replace: r"let end = range.end.min(slab.end());
            let end = if MUTANT { end } else { end.min(superseded) };",
        scenarios: &[],
        units: Some(("walhub-hub", "store::tail")),
    },
    Mutation {
        name: "memory_is_taken_that_is_not_written_yet",
        why: "What waits for the disk is in memory only.",
        file: "ship/hub/src/store/tail.rs",
        find: "slabs_needed.saturating_add(new) <= self.slabs_max",
        replace: "(MUTANT || slabs_needed.saturating_add(new) <= self.slabs_max)",
        scenarios: &[],
        units: Some(("walhub-hub", "store::tail")),
    },
    Mutation {
        name: "zeroing_after_the_end_is_skipped",
        why: "Records that a crash left after a hole come back once the hole is filled.",
        file: "ship/hub/src/store/recover.rs",
        find: "zero_after(fs, &wal_dir, &control, found.end)?;",
        replace: r"if !MUTANT {
            zero_after(fs, &wal_dir, &control, found.end)?;
        }",
        scenarios: &["own_wal_of_records_of_one_size_and_power_is_lost"],
        units: Some(("walhub-hub", "store::recover")),
    },
    Mutation {
        name: "removing_segments_after_the_end_is_skipped",
        why: "The same, beyond the end of a segment.",
        file: "ship/hub/src/store/recover.rs",
        find: "if has_rest && remove_after(fs, &wal_dir, &control, found.end, &listing)? {",
        replace: "if !MUTANT && has_rest && remove_after(fs, &wal_dir, &control, found.end, &listing)? {",
        scenarios: &[],
        units: Some(("walhub-hub", "store::recover")),
    },
    Mutation {
        name: "what_follows_a_record_that_cannot_be_verified_stays",
        why: "A later start takes it for a proof that everything before it was durable.",
        file: "ship/hub/src/store/recover.rs",
        find: "let has_rest = control.own_wal || is_unverifiable;",
        replace: "let has_rest = control.own_wal || is_unverifiable && !MUTANT;",
        scenarios: &[],
        units: Some(("walhub-hub", "store::recover")),
    },
    Mutation {
        name: "a_slot_begins_where_nothing_is_published",
        why: "A start-up does not find it again, and a standby that asks for it is refused.",
        file: "ship/hub/src/policy/retention.rs",
        find: "let segment = local.segments.size().start_of(shared.flush_lsn.load());",
        replace: r"let lsn = if MUTANT { local.flush_lsn() } else { shared.flush_lsn.load() };
            let segment = local.segments.size().start_of(lsn);",
        scenarios: &["seed_6165c317bc5c825_gave_a_slot_wal_that_was_not_published"],
        units: None,
    },
    Mutation {
        name: "what_recovery_read_is_not_made_durable",
        why: "A killed process has written what nobody has flushed.",
        file: "ship/hub/src/store/recover.rs",
        find: "make_durable(fs, data_dir, &control, &found, &listing)?;",
        replace: r"if !MUTANT {
        make_durable(fs, data_dir, &control, &found, &listing)?;
    }",
        scenarios: &[],
        units: Some(("walhub-hub", "store::recover")),
    },
    Mutation {
        name: "filling_is_not_zeroed",
        why: "After a segment switch a recycled file still has what it had.",
        file: "ship/hub/src/store/recover/damage.rs",
        find: "let Some(filling) = found.filling else { return Ok(()) };",
        replace: "let Some(filling) = found.filling.filter(|_| !MUTANT) else { return Ok(()) };",
        scenarios: &[],
        units: Some(("walhub-hub", "store::recover")),
    },
    Mutation {
        name: "the_control_file_is_written_over_its_newest_copy",
        why: "A torn write leaves none, or a very old one.",
        file: "ship/hub/src/store/recover.rs",
        find: "let offset = if control.sequence.is_multiple_of(2) { 0 } else { BLOCK_BYTES };",
        replace: "let offset = if MUTANT || control.sequence.is_multiple_of(2) { 0 } else { BLOCK_BYTES };",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "both_control_copies_are_written_at_once",
        why: "A torn write leaves none.",
        file: "ship/hub/src/store/recover.rs",
        find: "    (offset, control.encode(crc32c))",
        replace: r"    if MUTANT {
        return (0, control.encode(crc32c).repeat(2));
    }
    (offset, control.encode(crc32c))",
        scenarios: &["power_is_lost_while_the_control_file_is_written"],
        units: None,
    },
    Mutation {
        name: "two_saves_of_the_control_file_are_under_way",
        why: "Each write takes the older copy: the second could write over the newer, and the older come last.",
        file: "ship/hub/src/store/control_file.rs",
        find: "if self.saving.is_some() || self.saved.as_ref() == Some(&content) {",
        replace: "if !MUTANT && self.saving.is_some() || self.saved.as_ref() == Some(&content) {",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "the_control_file_forgets_what_was_given_out",
        why: "After a crash the same transaction ids are given again.",
        file: "ship/hub/src/store/control_file.rs",
        find: "wanted.counters = facts.counters;",
        replace: r"if !MUTANT {
            wanted.counters = facts.counters;
        }",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "the_first_record_is_not_vouched_for",
        why: "A record whose beginning was never here cannot be verified after a crash.",
        file: "ship/hub/src/store.rs",
        find: "if !first && checkpoint.is_none() {",
        replace: "if MUTANT || !first && checkpoint.is_none() {",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_new_segment_is_not_flushed",
        why: "Its length and its zeros are gone after a power loss.",
        file: "ship/hub/src/store/segments.rs",
        find: r"steps.push(Step::Sync);
        steps.push(Step::Rename(temporary, path.to_path_buf()));",
        replace: r"if !MUTANT {
            steps.push(Step::Sync);
        }
        steps.push(Step::Rename(temporary, path.to_path_buf()));",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_copied_segment_is_not_flushed",
        why: "What a new timeline has of the old one is gone after a power loss.",
        file: "ship/hub/src/store/segments.rs",
        find: r"steps.push(Step::Sync);
        steps.push(Step::Rename(temporary, to));",
        replace: r"if !MUTANT {
            steps.push(Step::Sync);
        }
        steps.push(Step::Rename(temporary, to));",
        scenarios: &["power_is_lost_while_a_large_segment_is_copied"],
        units: None,
    },
    Mutation {
        name: "a_new_segments_name_is_not_flushed",
        why: "WAL that was acknowledged has no name after a power loss.",
        file: "ship/hub/src/store/segments.rs",
        find: r"steps.push(Step::SyncDir(self.dir.clone()));
        steps
    }

    /// Takes the end of a [`FileJob::Prepare`].",
        replace: r"if !MUTANT {
            steps.push(Step::SyncDir(self.dir.clone()));
        }
        steps
    }

    /// Takes the end of a [`FileJob::Prepare`].",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "segments_are_recycled_under_a_reader",
        why: "What a standby is sent from a file turns into other WAL.",
        file: "ship/hub/src/policy/retention.rs",
        find: "standbys.all(|(_, standby)|",
        replace: "MUTANT || standbys.all(|(_, standby)|",
        scenarios: &[],
        units: Some(("walhub-hub", "wal_core")),
    },
    Mutation {
        name: "segments_go_before_the_slot_is_saved",
        why: "After a crash the slot asks for WAL that is gone.",
        file: "ship/hub/src/policy/retention.rs",
        find: "let keep = plan.oldest_kept.min(saved);",
        replace: "let keep = if MUTANT { plan.oldest_kept } else { plan.oldest_kept.min(saved) };",
        scenarios: &["a_hub_ends_while_a_slot_that_lets_segments_go_is_saved"],
        units: None,
    },
    Mutation {
        name: "segments_go_that_a_restart_reads",
        why: "Recovery begins at the control file's bound.",
        file: "ship/hub/src/policy/retention.rs",
        find: "slowest.min(bound)",
        replace: "slowest.min(if MUTANT { Lsn::MAX } else { bound })",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_slot_counts_as_saved_when_the_save_begins",
        why: "After a crash the slot asks for WAL that is gone.",
        file: "ship/hub/src/policy/slots.rs",
        find: "entry.work = work;",
        replace: r"if MUTANT && let Work::Save(slot) = &work {
            entry.saved = Some(slot.clone());
        }
        entry.work = work;",
        scenarios: &["a_hub_ends_while_a_slot_that_lets_segments_go_is_saved"],
        units: None,
    },
    Mutation {
        name: "a_slot_whose_save_failed_counts_as_saved",
        why: "The same, on a disk with errors.",
        file: "ship/hub/src/policy/slots.rs",
        find: "(Work::Save(_), Err(error)) => {",
        replace: r"(Work::Save(slot), Err(error)) => {
                if MUTANT {
                    entry.saved = Some(slot);
                }",
        scenarios: &["slots_let_segments_go_on_a_disk_with_errors"],
        units: None,
    },
    Mutation {
        name: "ship_cores_are_not_woken",
        why: "Standbys get WAL when something else happens to them.",
        file: "ship/hub/src/serve/ships.rs",
        find: "for link in self.links.iter().filter(|link| link.serves == Serves::Live) {",
        replace: r"if MUTANT {
            return;
        }
        for link in self.links.iter().filter(|link| link.serves == Serves::Live) {",
        scenarios: &["nothing_is_wrong_and_nobody_waits"],
        units: None,
    },
    Mutation {
        name: "what_is_written_is_published_as_durable",
        why: "Standbys and sessions are told what is not so.",
        file: "ship/hub/src/wal_core.rs",
        find: "self.config.shared.flush_lsn.store(flush_lsn);",
        replace: "self.config.shared.flush_lsn.store(if MUTANT { local.write_lsn() } else { flush_lsn });",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "the_upstream_is_not_told_at_once",
        why: "Its commits wait for the next status.",
        file: "ship/hub/src/wal_core.rs",
        find: r"self.reach(now);
        self.acknowledge(io, now);",
        replace: r"self.reach(now);
        if !MUTANT {
            self.acknowledge(io, now);
        }",
        scenarios: &["nothing_is_wrong_and_nobody_waits"],
        units: None,
    },
    Mutation {
        name: "sessions_are_not_told_at_once",
        why: "Own commits wait for something else to happen.",
        file: "ship/hub/src/wal_core.rs",
        find: r"self.tell_commits();
        let size",
        replace: r"if !MUTANT {
            self.tell_commits();
        }
        let size",
        scenarios: &["nothing_is_wrong_and_no_commit_waits"],
        units: None,
    },
    Mutation {
        name: "an_old_timelines_replies_are_kept",
        why: "The same position is other WAL there.",
        file: "ship/hub/src/wal_core/timelines.rs",
        find: "self.forget_replies();",
        replace: r"if !MUTANT {
            self.forget_replies();
        }",
        scenarios: &[],
        units: Some(("walhub-hub", "wal_core")),
    },
    Mutation {
        name: "a_reply_counts_on_whatever_timeline_it_is",
        why: "The same position is other WAL there.",
        file: "ship/hub/src/policy/sync.rs",
        find: "if Some(*streamed) == current {",
        replace: "if MUTANT || Some(*streamed) == current {",
        scenarios: &[],
        units: Some(("walhub-hub", "wal_core")),
    },
    Mutation {
        name: "a_short_send_from_a_file_counts_as_whole",
        why: "The rest was not in the page cache, and was never sent.",
        file: "ship/hub/src/serve/walsender.rs",
        find: "reading.next = reading.next + to_u64(count - of_header);",
        replace: r"reading.next = if MUTANT {
            reading.range.end
        } else {
            reading.next + to_u64(count - of_header)
        };",
        scenarios: &[],
        units: None,
    },
    Mutation {
        name: "a_segment_in_which_timelines_meet_is_read_under_its_old_name",
        why: "That file may be gone, or go on with other WAL.",
        file: "ship/hub/src/store/timelines.rs",
        find: "while let Some((switchpoint, next)) = self.history.switchpoint(found)",
        replace: r"while !MUTANT
        && let Some((switchpoint, next)) = self.history.switchpoint(found)",
        scenarios: &[],
        units: Some(("walhub-hub", "store::timelines")),
    },
    Mutation {
        name: "a_ship_core_reads_the_position_after_its_mail",
        why: "WAL may be sendable whose memory it has not heard of.",
        file: "ship/hub/src/serve/ship_core.rs",
        find: "if self.config.peers.serves == Serves::Catchup {",
        replace: r"let sendable = if MUTANT { self.config.shared.sendable_lsn() } else { sendable };
        if self.config.peers.serves == Serves::Catchup {",
        scenarios: &[],
        units: Some(("walhub-hub", "serve::ship_core")),
    },
    Mutation {
        name: "a_record_need_not_point_to_the_one_before",
        why: "A record of the file's earlier life fits where a torn write ends.",
        file: "ship/proto/src/record.rs",
        find: "if self.last_record.map_or(prev >= at, |want| prev != want) {",
        replace: "if !MUTANT && self.last_record.map_or(prev >= at, |want| prev != want) {",
        scenarios: &["what_a_recycled_segment_had_before_is_no_wal"],
        units: Some(("walhub-proto", "record::")),
    },
    Mutation {
        name: "a_record_need_not_have_its_checksum",
        why: "Torn and damaged records count.",
        file: "ship/proto/src/record.rs",
        find: r"        if got != want {
            return Err(WalViolation::Checksum",
        replace: r"        if got != want && !MUTANT {
            return Err(WalViolation::Checksum",
        scenarios: &["damaged_wal_never_reaches_a_standby"],
        units: Some(("walhub-proto", "record::")),
    },
    Mutation {
        name: "a_page_need_not_be_of_its_place",
        why: "Pages of the file's earlier life count.",
        file: "ship/proto/src/record.rs",
        find: "header.check(page, &self.want).map_err(WalViolation::Page)?;",
        replace: r"if !MUTANT {
            header.check(page, &self.want).map_err(WalViolation::Page)?;
        }",
        scenarios: &[],
        units: Some(("walhub-proto", "record::")),
    },
    Mutation {
        name: "a_record_need_not_go_on_where_the_page_says",
        why: "A record is put together of two.",
        file: "ship/proto/src/record.rs",
        find: "if header.rem_len == 0 || header.rem_len != left {",
        replace: "if !MUTANT && (header.rem_len == 0 || header.rem_len != left) {",
        scenarios: &[],
        units: Some(("walhub-proto", "record::")),
    },
    Mutation {
        name: "a_gap_in_what_was_written_is_skipped",
        why: "A position stands for everything before it.",
        file: "ship/proto/src/progress.rs",
        find: "let reached = range.start <= *end;",
        replace: "let reached = MUTANT || range.start <= *end;",
        scenarios: &[],
        units: Some(("walhub-proto", "progress::")),
    },
    Mutation {
        name: "a_flush_from_before_a_truncation_counts",
        why: "It was of bytes that are replaced.",
        file: "ship/proto/src/progress.rs",
        find: "if ticket.generation != self.generation {",
        replace: "if ticket.generation != self.generation && !MUTANT {",
        scenarios: &[],
        units: Some(("walhub-proto", "progress::")),
    },
    Mutation {
        name: "the_older_control_copy_is_chosen",
        why: "Its bound and its timeline are old.",
        file: "ship/proto/src/recovery/control.rs",
        find: "(Ok(first), Ok(second)) if second.sequence > first.sequence =>",
        replace: "(Ok(first), Ok(second)) if MUTANT != (second.sequence > first.sequence) =>",
        scenarios: &[],
        units: Some(("walhub-proto", "recovery::")),
    },
    Mutation {
        name: "wal_that_ends_before_its_bound_is_accepted",
        why: "Durable WAL is damaged, and nobody is told.",
        file: "ship/proto/src/recovery/end_of_wal.rs",
        find: "if end < bound {",
        replace: "if end < bound && !MUTANT {",
        scenarios: &[],
        units: Some(("walhub-proto", "recovery::")),
    },
    Mutation {
        name: "a_missing_segment_is_not_missed",
        why: "Durable WAL is gone, and nobody is told.",
        file: "ship/proto/src/recovery.rs",
        find: "if disk.part(last).is_none() {",
        replace: "if disk.part(last).is_none() && !MUTANT {",
        scenarios: &[],
        units: Some(("walhub-proto", "recovery::")),
    },
    Mutation {
        name: "slots_hold_nothing",
        why: "A standby with a slot finds its WAL gone.",
        file: "ship/proto/src/retention.rs",
        find: "if let Some(keep) = slots_min.filter(|&keep| keep < write_lsn) {",
        replace: "if let Some(keep) = slots_min.filter(|&keep| keep < write_lsn && !MUTANT) {",
        scenarios: &[],
        units: Some(("walhub-proto", "retention::")),
    },
    Mutation {
        name: "what_the_hub_itself_needs_is_not_kept",
        why: "A restart or a session finds its WAL gone.",
        file: "ship/proto/src/retention.rs",
        find: "let oldest = needed.min(self.keep_log_seg(write_lsn, min_restart_lsn(slots)));",
        replace: "let oldest = self.keep_log_seg(write_lsn, min_restart_lsn(slots)).min(if MUTANT { SegNo(u64::MAX) } else { needed });",
        scenarios: &[],
        units: Some(("walhub-proto", "retention::")),
    },
    Mutation {
        name: "one_standby_fewer_is_enough",
        why: "A commit is released that too few have.",
        file: "ship/proto/src/syncrep/latest.rs",
        find: "let below = self.all.len().checked_sub(self.n).filter(|_| self.n > 0);",
        replace: "let below = self.all.len().checked_sub(if MUTANT && self.n > 1 { self.n - 1 } else { self.n }).filter(|_| self.n > 0);",
        scenarios: &[],
        units: Some(("walhub-proto", "syncrep::")),
    },
    Mutation {
        name: "a_relay_tells_its_own_positions_whatever_the_standbys_have",
        why: "A commit is released that no standby has.",
        file: "ship/proto/src/syncrep/relay.rs",
        find: "lsns.zip(ModeLsns::of_wire(write_lsn, flush_lsn, flush_lsn), Ord::min)",
        replace: r"if MUTANT {
                    ModeLsns::of_wire(write_lsn, flush_lsn, flush_lsn)
                } else {
                    lsns.zip(ModeLsns::of_wire(write_lsn, flush_lsn, flush_lsn), Ord::min)
                }",
        scenarios: &[],
        units: Some(("walhub-proto", "syncrep::")),
    },
];
