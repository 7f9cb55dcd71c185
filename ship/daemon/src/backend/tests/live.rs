//! Against a real PostgreSQL 15: its catalogue, and its psql.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walhub_proto::wire::backend::Encoder;

use super::super::{serve, views};
use super::{params, snapshot};
use walhub_sql::env::Relation;

const INSTALL: &str = "needs PostgreSQL 15: apt-get install postgresql-15";

fn bin() -> PathBuf {
    let output = Command::new("pg_config").arg("--bindir").output().expect(INSTALL);
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// PostgreSQL refuses to run as root: then it runs as its own user.
fn as_postgres(program: &Path) -> Command {
    let is_root = Command::new("id").arg("-u").output().expect("id").stdout == b"0\n";
    if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `column = "..."` values of PostgreSQL's single-user mode, in order.
fn printed(output: &str, column: &str) -> Vec<String> {
    let prefix = format!("{column} = \"");
    output
        .split(&prefix)
        .skip(1)
        .filter_map(|rest| rest.split_once('"').map(|(value, _)| value.to_owned()))
        .collect()
}

/// A new cluster in a directory of its own.
fn cluster() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), mode).unwrap();
    let data = dir.path().join("data");
    let mut initdb = as_postgres(&bin().join("initdb"));
    initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "-D"]).arg(&data);
    succeeded(&initdb.current_dir("/tmp").output().expect(INSTALL));
    (dir, data)
}

#[test]
fn live_expressions_have_the_values_of_postgres() {
    let (dir, data) = cluster();
    let pg_ctl = |args: &[&str]| {
        let mut command = as_postgres(&bin().join("pg_ctl"));
        command.args(["-w", "-D"]).arg(&data).args(args).current_dir("/tmp");
        // The server keeps the streams it inherits.
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    };
    let socket = dir.path().to_str().unwrap();
    let options = format!("-c listen_addresses= -c timezone=UTC -c fsync=off -k {socket}");
    pg_ctl(&["-l", data.join("log").to_str().unwrap(), "-o", &options, "start"]);
    let theirs: Vec<String> = super::sql::EXPRESSIONS
        .iter()
        .map(|(sql, _)| {
            let mut psql = Command::new("psql");
            psql.args(["-X", "-At", "-P", "null=-", "-h", socket, "-U", "postgres", "-c", sql]);
            let output = psql.output().expect(INSTALL);
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
        .collect();
    pg_ctl(&["-m", "fast", "stop"]);
    for ((sql, expected), theirs) in super::sql::EXPRESSIONS.iter().zip(theirs) {
        assert_eq!(*expected, theirs.trim_end(), "{sql}");
    }
}

/// The relations that PostgreSQL has too.
fn of_postgres() -> impl Iterator<Item = &'static Relation> {
    views::relations().filter(|relation| relation.schema == "pg_catalog")
}

#[test]
fn live_views_have_the_columns_and_types_of_postgres() {
    let (_dir, data) = cluster();
    let mut postgres = as_postgres(&bin().join("postgres"));
    postgres.arg("--single").arg("-D").arg(&data).arg("postgres").current_dir("/tmp");
    postgres.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = postgres.spawn().expect(INSTALL);
    let mut stdin = child.stdin.take().unwrap();
    for relation in of_postgres() {
        writeln!(
            stdin,
            "select attrelid::regclass || ' ' || attname || ' ' || atttypid as c from pg_attribute \
             where attrelid = '{}'::regclass and attnum > 0 order by attnum",
            relation.name
        )
        .unwrap();
    }
    drop(stdin);
    let output = succeeded(&child.wait_with_output().unwrap());
    let theirs = printed(&output, "c");
    let mut ours = Vec::new();
    for relation in of_postgres() {
        for (column, ty) in relation.columns {
            // The one type that the console has not.
            let oid = if *column == "datacl" { 1034 } else { ty.oid() };
            ours.push(format!("{} {column} {oid}", relation.name));
        }
    }
    assert_eq!(ours, theirs);
}

/// Start-up by hand: refuses encryption, trusts everyone, and hands over to the console.
async fn accept(mut stream: TcpStream) {
    loop {
        let len = stream.read_u32().await.unwrap();
        let mut body = vec![0; usize::try_from(len).unwrap() - 4];
        stream.read_exact(&mut body).await.unwrap();
        let code = u32::from_be_bytes(body[..4].try_into().unwrap());
        if code == 3 << 16 {
            break;
        }
        stream.write_all(b"N").await.unwrap();
    }
    let mut encoder = Encoder::new();
    encoder.authentication_ok();
    for (name, value) in [
        ("server_version", "15.18"),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("standard_conforming_strings", "on"),
        ("integer_datetimes", "on"),
        ("in_hot_standby", "on"),
    ] {
        encoder.parameter_status(name, value);
    }
    encoder.backend_key_data(99, &[0; 4]).ready_for_query(b'I');
    stream.write_all(&encoder.take()).await.unwrap();
    let _ = serve(stream, Vec::new(), params(snapshot(true))).await;
}

/// Runs psql with those arguments against a console: what it printed on both streams.
fn psql(args: &[&str], input: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut command = Command::new("psql");
    command
        .args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "monitor", "-d", "postgres"])
        .args(args)
        .env_remove("PGOPTIONS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect(INSTALL);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    runtime.block_on(async { accept(listener.accept().await.unwrap().0).await });
    let output = child.wait_with_output().unwrap();
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8(both).unwrap()
}

#[test]
fn live_psql_shows_views_and_errors() {
    let shown = psql(
        &["-At"],
        "select application_name, replay_lsn is null, write_lag from pg_stat_replication order by 1 limit 1;\n\
         show wal_segment_size;\n\
         \\conninfo\n\
         begin; select 1 \\; select 2; commit;\n\
         select slot_name from pg_replication_slots \\gdesc\n\
         prepare x as select 1;\n\
         select nope\nfrom pg_settings;\n",
    );
    for expected in [
        "a|t|00:00:00.000123",
        "16MB",
        "You are connected to database \"postgres\" as user \"monitor\"",
        "BEGIN",
        "1\n2",
        "COMMIT",
        "ERROR:  command PREPARE is not supported by walhub",
        "HINT:  The console answers SELECT",
        "ERROR:  column \"nope\" does not exist\nLINE 1: select nope\n               ^",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
}

#[test]
fn live_psql_lists_the_database_and_watches() {
    let listed = psql(&["-l"], "");
    assert!(listed.contains(" postgres "), "{listed}");
    let expanded = psql(&["-x", "-c", "select * from pg_stat_wal_receiver"], "");
    assert!(expanded.contains("conninfo              | host=primary"), "{expanded}");
}
