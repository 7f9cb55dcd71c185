use super::*;
use alloc::vec;
use std::string::ToString;

fn physical(slot: Option<&str>, start: u64, timeline: Option<u32>) -> Command {
    Command::StartReplication {
        slot: slot.map(Into::into),
        start: Lsn(start),
        timeline: timeline.and_then(TimelineId::new),
    }
}

fn option(name: &str, value: OptionValue) -> CommandOption {
    CommandOption { name: name.into(), value }
}

fn create(slot: &str, temporary: bool, options: Vec<CommandOption>) -> Command {
    Command::CreateReplicationSlot { slot: slot.into(), temporary, plugin: None, options }
}

fn text(value: &str) -> OptionValue {
    OptionValue::Text(value.into())
}

fn assert_understood<const N: usize>(cases: [(&str, Command); N]) {
    for (text, command) in cases {
        assert_eq!(parse(text), Ok(Some(command)), "{text:?}");
    }
}

#[test]
fn streaming_commands_of_every_release_are_understood() {
    assert_understood([
        ("IDENTIFY_SYSTEM", Command::IdentifySystem),
        (" \t\r\n\x0cIDENTIFY_SYSTEM ; ", Command::IdentifySystem),
        ("SHOW wal_segment_size", Command::Show { name: "wal_segment_size".into() }),
        ("SHOW a.\"B c\".D", Command::Show { name: "a.B c.d".into() }),
        ("TIMELINE_HISTORY 7", Command::TimelineHistory { timeline: TimelineId::new(7).unwrap() }),
        ("START_REPLICATION 0/3000000 TIMELINE 1", physical(None, 0x300_0000, Some(1))),
        (
            "START_REPLICATION SLOT \"a b\"\"c\" PHYSICAL abc/DEF;",
            physical(Some("a b\"c"), 0xabc_0000_0def, None),
        ),
        ("START_REPLICATION SLOT slot 0/0", physical(Some("slot"), 0, None)),
        (
            "START_REPLICATION SLOT s LOGICAL 0/0 (\"proto_version\" '1', p)",
            Command::StartLogicalReplication {
                slot: "s".into(),
                start: Lsn(0),
                options: vec![option("proto_version", text("1")), option("p", OptionValue::Absent)],
            },
        ),
        (
            "START_REPLICATION SLOT \"s\" LOGICAL 1/A",
            Command::StartLogicalReplication {
                slot: "s".into(),
                start: Lsn(0x1_0000_000A),
                options: vec![],
            },
        ),
    ]);
}

#[test]
fn slot_commands_of_every_release_are_understood() {
    use OptionValue::{Absent, Integer};
    let reserve = || vec![option("reserve_wal", Absent)];
    assert_understood([
        ("CREATE_REPLICATION_SLOT \"s\" PHYSICAL RESERVE_WAL", create("s", false, reserve())),
        ("CREATE_REPLICATION_SLOT Foo TEMPORARY PHYSICAL", create("foo", true, vec![])),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL)", create("s", false, reserve())),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (reserve_wal 1, x 'y''z', \"Q\" on)",
            create(
                "s",
                false,
                vec![
                    option("reserve_wal", Integer(1)),
                    option("x", text("y'z")),
                    option("Q", text("on")),
                ],
            ),
        ),
        (
            "CREATE_REPLICATION_SLOT s LOGICAL test_decoding NOEXPORT_SNAPSHOT TWO_PHASE",
            Command::CreateReplicationSlot {
                slot: "s".into(),
                temporary: false,
                plugin: Some("test_decoding".into()),
                options: vec![option("snapshot", text("nothing")), option("two_phase", Absent)],
            },
        ),
        ("DROP_REPLICATION_SLOT s", Command::DropReplicationSlot { slot: "s".into(), wait: false }),
        (
            "DROP_REPLICATION_SLOT s WAIT",
            Command::DropReplicationSlot { slot: "s".into(), wait: true },
        ),
        ("READ_REPLICATION_SLOT s", Command::ReadReplicationSlot { slot: "s".into() }),
        (
            "ALTER_REPLICATION_SLOT s (failover)",
            Command::AlterReplicationSlot {
                slot: "s".into(),
                options: vec![option("failover", Absent)],
            },
        ),
    ]);
}

#[test]
fn backup_commands_of_every_release_are_understood() {
    use OptionValue::{Absent, Integer};
    assert_understood([
        ("UPLOAD_MANIFEST", Command::UploadManifest),
        ("BASE_BACKUP", Command::BaseBackup { options: vec![] }),
        (
            "BASE_BACKUP ( LABEL 'pg_basebackup base backup', PROGRESS, CHECKPOINT 'fast', WAIT 0)",
            Command::BaseBackup {
                options: vec![
                    option("label", text("pg_basebackup base backup")),
                    option("progress", Absent),
                    option("checkpoint", text("fast")),
                    option("wait", Integer(0)),
                ],
            },
        ),
        (
            "BASE_BACKUP LABEL 'l' PROGRESS FAST NOWAIT MAX_RATE 32 MANIFEST 'yes'",
            Command::BaseBackup {
                options: vec![
                    option("label", text("l")),
                    option("progress", Absent),
                    option("fast", Absent),
                    option("nowait", Absent),
                    option("max_rate", Integer(32)),
                    option("manifest", text("yes")),
                ],
            },
        ),
    ]);
}

#[test]
fn keywords_are_taken_in_any_case() {
    assert_eq!(parse("identify_system"), Ok(Some(Command::IdentifySystem)));
    assert_eq!(
        parse("start_replication slot physical physical 0/1 timeline 2"),
        Ok(Some(physical(Some("physical"), 1, Some(2))))
    );
}

#[test]
fn anything_else_may_be_sql() {
    for text in
        ["", " ", ";", "select 1", "IDENTIFY_SYSTEMX", "\"SHOW\" x", "1", "0/0", "@", "-- x"]
    {
        assert_eq!(parse(text), Ok(None), "{text:?}");
    }
    assert_eq!(parse("'abc"), Err(CommandError::UnterminatedQuotedString));
}

#[test]
fn wrong_commands_are_syntax_errors() {
    for text in [
        "IDENTIFY_SYSTEM x",
        "IDENTIFY_SYSTEM;;",
        "IDENTIFY_SYSTEM @",
        "SHOW",
        "SHOW 'x'",
        "SHOW a.",
        "TIMELINE_HISTORY",
        "TIMELINE_HISTORY x",
        "TIMELINE_HISTORY -1",
        "START_REPLICATION",
        "START_REPLICATION 1abc",
        "START_REPLICATION 0/",
        "START_REPLICATION SLOT PHYSICAL 0/0",
        "START_REPLICATION SLOT s",
        "START_REPLICATION LOGICAL 0/0",
        "START_REPLICATION 0/0 TIMELINE",
        "START_REPLICATION 0/0 SLOT s",
        "CREATE_REPLICATION_SLOT s",
        "CREATE_REPLICATION_SLOT s TEMPORARY",
        "CREATE_REPLICATION_SLOT s LOGICAL",
        "CREATE_REPLICATION_SLOT s PHYSICAL ()",
        "CREATE_REPLICATION_SLOT s PHYSICAL (a,)",
        "CREATE_REPLICATION_SLOT s PHYSICAL (a b c)",
        "CREATE_REPLICATION_SLOT s PHYSICAL (a",
        "CREATE_REPLICATION_SLOT s PHYSICAL x",
        "DROP_REPLICATION_SLOT 's'",
        "DROP_REPLICATION_SLOT s WAIT WAIT",
        "ALTER_REPLICATION_SLOT s",
        "UPLOAD_MANIFEST x",
        "BASE_BACKUP LABEL x",
        "BASE_BACKUP y",
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!((error.to_string().as_str(), error.sqlstate().0), ("syntax error", "42601"));
    }
    assert_eq!(parse("SHOW \"x"), Err(CommandError::UnterminatedQuotedString));
    for text in
        ["TIMELINE_HISTORY 0", "TIMELINE_HISTORY 4294967296", "START_REPLICATION 0/0 TIMELINE 0"]
    {
        assert_eq!(parse(text), Err(CommandError::InvalidTimeline), "{text}");
    }
}

#[test]
fn no_prefix_of_a_command_makes_the_parser_fail_otherwise() {
    let text = "CREATE_REPLICATION_SLOT \"s\u{fc}\" TEMPORARY PHYSICAL (reserve_wal 'on', x 12)";
    for (cut, _) in text.char_indices() {
        match parse(&text[..cut]) {
            Ok(_) | Err(CommandError::Syntax | CommandError::UnterminatedQuotedString) => {}
            Err(other) => panic!("{other:?} at {cut}"),
        }
    }
}

#[test]
fn long_names_are_truncated_between_characters() {
    let name = |word: &str| match parse(&format!("DROP_REPLICATION_SLOT {word}")) {
        Ok(Some(Command::DropReplicationSlot { slot, .. })) => slot,
        other => panic!("{other:?}"),
    };
    assert_eq!(name(&"A".repeat(80)), "a".repeat(63));
    assert_eq!(name(&"\u{fc}".repeat(40)), "\u{fc}".repeat(31));
    assert_eq!(name(&format!("\"{}\"", "A".repeat(64))), "A".repeat(63));
}

#[test]
fn options_of_a_physical_slot_are_checked() {
    let reserves = |text: &str| match parse(&format!("CREATE_REPLICATION_SLOT s PHYSICAL {text}")) {
        Ok(Some(Command::CreateReplicationSlot { options, .. })) => {
            physical_slot_reserves_wal(&options).map_err(|error| error.to_string())
        }
        other => panic!("{other:?}"),
    };
    for (text, answer) in [
        ("", Ok(false)),
        ("RESERVE_WAL", Ok(true)),
        ("(RESERVE_WAL off)", Ok(false)),
        ("(RESERVE_WAL 'TRUE')", Ok(true)),
        ("(RESERVE_WAL 0)", Ok(false)),
        ("(RESERVE_WAL 2)", Err("reserve_wal requires a Boolean value")),
        ("(RESERVE_WAL maybe)", Err("reserve_wal requires a Boolean value")),
        ("RESERVE_WAL RESERVE_WAL", Err("conflicting or redundant options")),
        ("TWO_PHASE", Err("conflicting or redundant options")),
        ("(bla)", Err("unrecognized option: bla")),
    ] {
        assert_eq!(reserves(text), answer.map_err(ToString::to_string), "{text}");
    }
}

#[test]
fn options_of_a_logical_slot_are_checked() {
    let check = |text: &str| {
        let command = format!("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput {text}");
        match parse(&command) {
            Ok(Some(Command::CreateReplicationSlot {
                options, plugin, temporary: true, ..
            })) => {
                assert_eq!(plugin.as_deref(), Some("pgoutput"));
                logical_slot_options(&options)
                    .map_err(|error| (error.to_string(), error.sqlstate().0))
            }
            other => panic!("{other:?}"),
        }
    };
    let slot = |snapshot, two_phase, failover| LogicalSlotOptions { snapshot, two_phase, failover };
    for (text, want) in [
        ("", slot(SnapshotAction::Export, false, false)),
        ("NOEXPORT_SNAPSHOT", slot(SnapshotAction::Nothing, false, false)),
        ("USE_SNAPSHOT TWO_PHASE", slot(SnapshotAction::Use, true, false)),
        ("(SNAPSHOT 'nothing')", slot(SnapshotAction::Nothing, false, false)),
        ("(SNAPSHOT 'export', FAILOVER)", slot(SnapshotAction::Export, false, true)),
        ("(TWO_PHASE 'off', FAILOVER 1)", slot(SnapshotAction::Export, false, true)),
    ] {
        assert_eq!(check(text), Ok(want), "{text}");
    }
    let conflicting = "conflicting or redundant options";
    let unrecognized = "unrecognized value for CREATE_REPLICATION_SLOT option \"snapshot\": \"x\"";
    for (text, message, code) in [
        ("RESERVE_WAL", conflicting, "42601"),
        ("USE_SNAPSHOT EXPORT_SNAPSHOT", conflicting, "42601"),
        ("(FAILOVER, FAILOVER)", conflicting, "42601"),
        ("(SNAPSHOT)", "snapshot requires a parameter", "42601"),
        ("(SNAPSHOT 'x')", unrecognized, "22023"),
        ("(TWO_PHASE 'x')", "two_phase requires a Boolean value", "42601"),
        ("(bla)", "unrecognized option: bla", "XX000"),
    ] {
        assert_eq!(check(text), Err((message.to_string(), code)), "{text}");
    }
}

#[test]
fn slot_names_follow_the_rules() {
    assert_eq!(validate_slot_name("a_1"), Ok(()));
    assert_eq!(validate_slot_name(&"a".repeat(63)), Ok(()));
    for (name, message, code) in [
        ("", "replication slot name \"\" is too short", "42602"),
        ("Foo", "replication slot name \"Foo\" contains invalid character", "42602"),
        ("a-b", "replication slot name \"a-b\" contains invalid character", "42602"),
    ] {
        let error = validate_slot_name(name).expect_err(name);
        assert_eq!((error.to_string().as_str(), error.sqlstate().0), (message, code));
    }
    assert_eq!(validate_slot_name(&"a".repeat(64)).unwrap_err().sqlstate().0, "42622");
}
