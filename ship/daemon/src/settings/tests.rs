//! Settings against what a real PostgreSQL 15 answered (golden/make), and their sources.

use std::fs;
use std::time::Duration;

use walhub_hub::api::settings::Forward;
use walhub_proto::syncrep::SynchronousCommit;

use super::definition::{Context, Kind, Written};
use super::source::{parse_assignment, unrecognized};
use super::value::{find, parse_bool};
use super::*;

mod shown;

/// Settings that PostgreSQL lets a session or a superuser change; in walhub only a reload does.
const SESSION_CONTEXTS: [&str; 3] = ["user", "superuser", "superuser-backend"];
/// But for these.
const SESSION_SETTINGS: [&str; 1] = ["synchronous_commit"];

#[test]
fn values_are_read_as_postgresql_reads_them() {
    for line in include_str!("golden/values.tsv").lines() {
        let (assignment, want) = line.split_once('\t').unwrap();
        let (name, value) = assignment.split_once('=').unwrap();
        let definition = find(name).unwrap();
        // As a file has it: the command line admits port 0.
        let source = ValueSource::File(FileLine { file: "walhub.toml".into(), line: 1 });
        let written = Written { name: definition.name, value, source };
        let mut settings = Settings::default();
        let got = match (definition.assign)(&mut settings, &written) {
            Ok(()) => (definition.assigned)(&settings).text.plain.clone(),
            Err(error) => {
                let mut text = format!("FATAL:  {error}");
                for (label, part) in [("DETAIL", error.detail), ("HINT", error.hint)] {
                    if let Some(part) = part {
                        text.push_str(&format!("|{label}:  {part}"));
                    }
                }
                text
            }
        };
        assert_eq!(got, want, "{assignment}");
    }
}

#[test]
fn units_bounds_and_defaults_are_postgresqls() {
    for line in include_str!("golden/pg_settings.tsv").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, unit, vartype, min, max, context, boot] = fields[..] else { panic!("{line}") };
        let rows = Settings::default().all();
        let row = rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row.unit.as_deref().unwrap_or(""), unit, "{name}");
        assert_eq!(row.vartype, vartype, "{name}");
        assert_eq!(row.min_val.as_deref().unwrap_or(""), min, "{name}");
        assert_eq!(row.max_val.as_deref().unwrap_or(""), max, "{name}");
        if !(SESSION_SETTINGS.contains(&name) && context == row.context) {
            let context = if SESSION_CONTEXTS.contains(&context) { "sighup" } else { context };
            assert_eq!(row.context, context, "{name}");
        }
        assert_eq!(row.boot_val.as_deref(), Some(boot), "{name}");
    }
}

#[test]
fn every_default_has_its_type_and_every_bound_is_accepted() {
    let settings = Settings::default();
    assert_eq!(settings.listen_addresses, ["localhost"]);
    assert_eq!(settings.port, 5432);
    assert_eq!(settings.cores, None);
    assert_eq!(settings.catchup_cores, None);
    assert_eq!(settings.hub.tail_cache_size, 64 << 20);
    assert_eq!(settings.hub.min_wal_size, 80 << 20);
    assert_eq!(settings.hub.wal_sender_message_size, 128 << 10);
    assert_eq!(settings.hub.max_slot_wal_keep_size, None);
    assert_eq!(settings.hub.wal_sender_timeout, Some(Duration::from_secs(60)));
    assert_eq!(settings.hub.wal_receiver_status_interval, Some(Duration::from_secs(10)));
    assert_eq!(settings.tcp_user_timeout, None);
    assert_eq!(settings.hub.primary_slot_name, None);
    assert!(settings.unix_socket_directories.is_empty());
    for definition in DEFINITIONS {
        if let Kind::Int(range) = (definition.kind)() {
            for bound in [range.min, range.max] {
                // Conversion to the typed field must not fail either.
                command_line(&[(definition.name, &bound.to_string())]).unwrap();
            }
        }
    }
}

fn command_line(assignments: &[(&str, &str)]) -> Result<Settings, Vec<SettingError>> {
    let command_line =
        assignments.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Sources { command_line, ..Sources::default() }.load()
}

#[test]
fn values_reach_their_fields() {
    let settings = command_line(&[
        ("port", "0"),
        ("cores", "3"),
        ("catchup_cores", "0"),
        ("max_slot_wal_keep_size", "10GB"),
        ("wal_sender_timeout", "0"),
        ("tcp_keepalives_idle", "2min"),
        ("tcp_keepalives_count", "4"),
        ("Listen_Addresses", "::1, \"a b\""),
        ("forward", "FLUSHED"),
        ("wal_sync_method", "open_sync"),
        ("log_destination", "jsonlog"),
        ("primary_slot_name", "hub_1"),
        ("synchronous_commit", "REMOTE_apply"),
        ("synchronous_standby_names", "ANY 2 (a, \"b c\", *)"),
    ])
    .unwrap();
    assert_eq!(settings.port, 0);
    assert_eq!(settings.cores, Some(3));
    assert_eq!(settings.catchup_cores, Some(0));
    assert_eq!(settings.hub.max_slot_wal_keep_size, Some(10 << 30));
    assert_eq!(settings.hub.wal_sender_timeout, None);
    assert_eq!(settings.tcp_keepalives_idle, Some(Duration::from_secs(120)));
    assert_eq!(settings.tcp_keepalives_count, Some(4));
    assert_eq!(settings.listen_addresses, ["::1", "a b"]);
    assert_eq!(settings.hub.forward, Forward::Flushed);
    assert_eq!(settings.wal_sync_method, WalSyncMethod::OpenSync);
    assert_eq!(settings.log_destination, LogDestination::Json);
    assert_eq!(settings.hub.primary_slot_name.as_deref(), Some("hub_1"));
    assert_eq!(settings.synchronous_commit, SynchronousCommit::RemoteApply);
    let names = settings.hub.synchronous_standby_names.map(|names| names.to_string());
    assert_eq!(names.as_deref(), Some("ANY 2 (a, \"b c\", *)"));
}

#[test]
fn show_uses_the_largest_exact_unit() {
    let settings = command_line(&[
        ("wal_keep_size", "1536"),
        ("wal_receiver_timeout", "90s"),
        ("hot_standby_feedback", "1"),
        ("tail_cache_size", "2048"),
    ])
    .unwrap();
    for (name, want) in [
        ("wal_keep_size", "1536MB"),
        ("wal_receiver_timeout", "90s"),
        ("wal_sender_timeout", "1min"),
        ("HOT_STANDBY_FEEDBACK", "on"),
        ("tail_cache_size", "2GB"),
        ("max_slot_wal_keep_size", "-1"),
        ("tcp_user_timeout", "0"),
        ("cores", "auto"),
        ("primary_slot_name", ""),
    ] {
        assert_eq!(settings.show(name).as_deref(), Some(want), "{name}");
    }
    assert_eq!(settings.show("shared_buffers"), None);
}

#[test]
fn booleans_take_every_unique_prefix() {
    for (words, want) in [
        (["on", "t", "tr", "TRUE", "y", "yes", "1"], Some(true)),
        (["of", "off", "f", "fals", "n", "No", "0"], Some(false)),
        (["o", "", "onn", "2", "01", " on", "yess"], None),
    ] {
        for word in words {
            assert_eq!(parse_bool(word), want, "{word:?}");
        }
    }
}

#[test]
fn an_unknown_name_gets_the_nearest_one() {
    let error = unrecognized("wal_keep_sise");
    assert_eq!(error.message, "unrecognized configuration parameter \"wal_keep_sise\"");
    assert_eq!(error.hint.as_deref(), Some("Perhaps you meant \"wal_keep_size\"."));
    let error = unrecognized("shared_buffers");
    assert_eq!(
        error.detail.as_deref(),
        Some("PostgreSQL has this parameter, but walhub does not use it.")
    );
    let far = unrecognized("no_such_thing_at_all").hint.unwrap();
    assert!(far.contains("walhub settings"), "{far}");
    assert_eq!(
        parse_assignment("wal-keep-size=1=2").unwrap(),
        ("wal_keep_size".to_owned(), "1=2".to_owned())
    );
    assert_eq!(parse_assignment("port").unwrap_err().to_string(), "-c port requires a value");
}

/// A directory with a walhub.toml of this content.
fn toml_file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("walhub.toml");
    fs::write(&file, text).unwrap();
    (dir, Sources { file: Some(file), file_required: true, ..Sources::default() })
}

#[test]
fn a_file_may_use_tomls_own_types_and_the_command_line_wins() {
    let (_dir, mut sources) = toml_file(
        "# walhub\nport = 0x1539\nwal_keep_size = \"1GB\"\nhot_standby_feedback = true\n\
         wal_sender_timeout = 1.5\nlog_line_prefix = '''\n%t '''\n",
    );
    sources.command_line.push(("wal_keep_size".to_owned(), "2GB".to_owned()));
    let settings = sources.load().unwrap();
    assert_eq!(settings.port, 5433);
    assert_eq!(settings.hub.wal_keep_size, 2 << 30);
    assert!(settings.hub.hot_standby_feedback);
    assert_eq!(settings.hub.wal_sender_timeout, Some(Duration::from_millis(2)));
    assert_eq!(settings.log_line_prefix, "%t ");
    let rows = settings.all();
    let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
    assert_eq!(row("port").source, "configuration file");
    assert_eq!(row("port").sourceline, Some(2));
    assert_eq!(row("wal_keep_size").source, "command line");
    assert_eq!(row("wal_keep_size").setting.as_deref(), Some("2048"));
    assert_eq!(row("cluster_name").source, "default");
    assert!(rows.is_sorted_by_key(|row| &row.name));
}

#[test]
fn every_error_of_a_file_is_told_with_its_line() {
    let (dir, sources) =
        toml_file("port = 70000\n\nwal_keep_sise = 1\n[wal_keep_size]\nx = 1\n[max_connections]\n");
    let errors = sources.load().unwrap_err();
    let file = dir.path().join("walhub.toml");
    let file = file.display();
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.sort();
    assert_eq!(
        texts,
        [
            format!(
                "70000 is outside the valid range for parameter \"port\" (1 .. 65535) in file \"{file}\" line 1"
            ),
            format!(
                "parameter \"max_connections\" requires a string, a number, or a Boolean value in file \"{file}\" line 6"
            ),
            format!(
                "parameter \"wal_keep_size\" requires a string, a number, or a Boolean value in file \"{file}\" line 4"
            ),
            format!(
                "unrecognized configuration parameter \"wal_keep_sise\" in file \"{file}\" line 3"
            ),
        ]
    );
    let (_dir, sources) = toml_file("port = 1\nport = 2\nlisten_addresses = [\n");
    let errors = sources.load().unwrap_err();
    assert!(errors.iter().all(|error| error.message.starts_with("syntax error: ")), "{errors:?}");
    assert!(errors.iter().any(|error| error.place.as_ref().unwrap().line == 2), "{errors:?}");
}

#[test]
fn only_a_file_that_was_named_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("none.toml");
    let mut sources = Sources { file: Some(file.clone()), ..Sources::default() };
    assert_eq!(sources.load().unwrap(), Settings::default());
    sources.file_required = true;
    assert_eq!(
        sources.load().unwrap_err()[0].to_string(),
        format!(
            "could not open configuration file \"{}\": No such file or directory",
            file.display()
        )
    );
}

#[test]
fn reload_changes_what_may_change_and_keeps_the_rest() {
    let (_dir, sources) = toml_file("port = 5433\nwal_keep_size = 1\nlog_connections = true\n");
    let before = sources.load().unwrap();
    fs::write(
        sources.file.as_ref().unwrap(),
        "port = 5434\nwal_keep_size = '2GB'\nlog_connections = 'yes'\nmin_wal_size = 96\n",
    )
    .unwrap();
    let (after, changes) = before.reload(&sources).unwrap();
    let messages: Vec<String> = changes.iter().map(Change::message).collect();
    assert_eq!(
        messages,
        [
            "parameter \"port\" cannot be changed without restarting the server",
            "parameter \"min_wal_size\" changed to \"96MB\"",
            "parameter \"wal_keep_size\" changed to \"2GB\"",
        ]
    );
    assert_eq!((after.port, after.hub.wal_keep_size), (5433, 2 << 30));
    let pending: Vec<String> =
        after.all().into_iter().filter(|row| row.pending_restart).map(|row| row.name).collect();
    assert_eq!(pending, ["port"]);

    fs::write(sources.file.as_ref().unwrap(), "port = 5433\n").unwrap();
    let (last, changes) = after.reload(&sources).unwrap();
    assert!(changes.contains(&Change::Reset { name: "wal_keep_size" }), "{changes:?}");
    assert_eq!(last.hub.wal_keep_size, 0);
    assert!(last.all().iter().all(|row| !row.pending_restart));

    fs::write(sources.file.as_ref().unwrap(), "port = \n").unwrap();
    assert!(last.reload(&sources).is_err());
}

#[test]
fn the_reference_lists_every_setting_once() {
    let text = show::markdown();
    for definition in DEFINITIONS {
        assert_eq!(text.matches(&format!("| `{}` |", definition.name)).count(), 1);
        assert!(definition.description.ends_with(['.', ')']), "{}", definition.name);
        assert!(definition.context != Context::Postmaster || text.contains("restart"));
    }
    assert!(
        text.contains("| `wal_sender_timeout` | `1min` | 0 .. 2147483647ms | reload |"),
        "{text}"
    );
}
