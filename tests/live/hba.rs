//! Who may come in: the verdicts of pg_hba.conf against those of PostgreSQL, the views of both files, and a hub that
//! follows them.

mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::{JoinSet, LocalSet};
use walhub::settings::AuthFiles;
use walhub_peers::postgres::Cluster;
use walhub_proto::hba::{Connection, Interface, Membership, Rules, Search, Step, Transport};
use walhub_proto::wire::error_response::ErrorResponse;
use walhub_proto::wire::startup;
use walhub_tests::client::{Endpoint, SqlServer};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::log::Log;
use walhub_tests::postgres::{StopMode, major};
use walhub_tests::process::{Process, said, send_signal};
use walhub_tests::scratch::{Scratch, free_endpoint, give_to_postgres};
use walhub_tests::wait::{DEADLINE, wait_until};

/// Whoever connects: from where, where none is by Unix socket; as whom, to what, and whether for replication.
#[derive(Clone, Copy, Debug)]
struct Client {
    from: Option<Ipv4Addr>,
    user: &'static str,
    database: &'static str,
    replication: Option<&'static str>,
}

const fn client(from: [u8; 4], user: &'static str, database: &'static str) -> Client {
    let [a, b, c, d] = from;
    Client { from: Some(Ipv4Addr::new(a, b, c, d)), user, database, replication: None }
}

/// What a server at the address first says to a client: the method that it asks for, or why it does not let it in.
async fn first_word(endpoint: Endpoint, socket: PathBuf, client: Client) -> String {
    let mut parameters = vec![("user", client.user), ("database", client.database)];
    parameters.extend(client.replication.map(|mode| ("replication", mode)));
    let packet = startup::encode(&parameters);
    match client.from {
        Some(from) => {
            let tcp = TcpSocket::new_v4().expect("a socket");
            tcp.bind(SocketAddrV4::new(from, 0).into()).expect("an address of this machine");
            let to = SocketAddr::V4(endpoint.into());
            exchange(tcp.connect(to).await.expect("a connection"), &packet).await
        }
        None => exchange(UnixStream::connect(socket).await.expect("a connection"), &packet).await,
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, packet: &[u8]) -> String {
    stream.write_all(packet).await.expect("a packet is sent");
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.expect("an answer");
    let [kind, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length)).expect("a length") - 4;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("an answer");
    match (kind, body.as_slice()) {
        (b'R', [0, 0, 0, 0]) => "trust".to_owned(),
        (b'R', [0, 0, 0, 3]) => "password".to_owned(),
        (b'R', [0, 0, 0, 10, ..]) => "scram-sha-256".to_owned(),
        (b'E', body) => {
            let message = ErrorResponse::decode(body).expect("an error").message;
            if message.starts_with("pg_hba.conf rejects ") {
                "reject".to_owned()
            } else if message.starts_with("no pg_hba.conf entry for ") {
                "none".to_owned()
            } else {
                message
            }
        }
        other => panic!("{other:?}"),
    }
}

/// What a server says to each of the clients, who all come at once.
fn first_words(endpoint: Endpoint, socket: &Path, clients: &[Client]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let all = async {
        let mut asked = JoinSet::new();
        for (number, client) in clients.iter().copied().enumerate() {
            let socket = socket.to_owned();
            asked.spawn_local(async move { (number, first_word(endpoint, socket, client).await) });
        }
        let mut words = asked.join_all().await;
        words.sort();
        words.into_iter().map(|(_, word)| word).collect()
    };
    let timed = async { tokio::time::timeout(DEADLINE, all).await.expect("answers in time") };
    LocalSet::new().block_on(&runtime, timed)
}

/// A PostgreSQL whose pg_hba.conf changes, with the roles of [`Roles`].
struct Judge {
    data: PathBuf,
    endpoint: Endpoint,
    socket: PathBuf,
    server: Process,
    files: u32,
}

impl SqlServer for Judge {
    fn endpoint(&self) -> Endpoint {
        self.endpoint
    }
}

impl Judge {
    fn start(scratch: &Scratch) -> Self {
        let cluster = Cluster::init(scratch.dir(), "judge", &[]).expect("initdb");
        let (endpoint, log) = (free_endpoint(), Log::new("judge"));
        let sockets = scratch.directory("sockets");
        let settings = [
            format!("unix_socket_directories={}", sockets.display()),
            "max_connections=200".to_owned(),
            "max_wal_senders=100".to_owned(),
            "fsync=off".to_owned(),
        ];
        let mark = log.mark();
        let server = cluster.spawn(endpoint, &settings, Signal::QUIT, &log).expect("a server");
        log.wait_ready(mark, DEADLINE).expect("a server that starts");
        let socket = sockets.join(format!(".s.PGSQL.{}", endpoint.port));
        let judge = Self { data: cluster.data, endpoint, socket, server, files: 0 };
        fs::write(judge.data.join("pg_hba.conf"), "host all all all trust\n").expect("a file");
        judge.reload_until("postgres", "trust");
        for role in ROLES.iter().filter(|role| **role != "postgres") {
            judge.psql(&format!("create role {role} login"));
        }
        for (member, role) in DIRECT_MEMBERS {
            judge.psql(&format!("grant {role} to {member}"));
        }
        judge
    }

    fn reload_until(&self, database: &'static str, word: &str) {
        send_signal(self.server.pid(), Signal::HUP);
        let asker = client([127, 0, 0, 1], "postgres", database);
        wait_until("the server has new rules", || {
            first_words(self.endpoint, &self.socket, &[asker]) == [word]
        });
    }

    /// What it says to each of the clients by those rules.
    fn words(&mut self, hba: &str, clients: &[Client]) -> Vec<String> {
        // The first line is how to tell that the file is in force.
        self.files += 1;
        let probe: &'static str = if self.files.is_multiple_of(2) { "probe0" } else { "probe1" };
        let text =
            format!("host {probe} all all reject\n{hba}\nhost probe0,probe1 all all trust\n");
        fs::write(self.data.join("pg_hba.conf"), text).expect("a file");
        self.reload_until(probe, "reject");
        first_words(self.endpoint, &self.socket, clients)
    }
}

const ROLES: [&str; 8] = ["postgres", "u1", "u2", "u3", "g1", "g2", "db1", "replication"];
const DIRECT_MEMBERS: [(&str, &str); 4] = [("u1", "g1"), ("g1", "g2"), ("u2", "g2"), ("u2", "db1")];

/// The roles of the judge.
struct Roles;

impl Membership for Roles {
    fn role_exists(&self, role: &str) -> bool {
        ROLES.contains(&role)
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        let of = |(member, of): &(&str, &str)| (*member == user).then(|| self.is_member(of, role));
        user == role || DIRECT_MEMBERS.iter().filter_map(of).any(|is_member| is_member)
    }
}

/// What walhub's rules say to a client.
fn verdict(rules: &Rules, client: Client) -> String {
    let connection = Connection {
        transport: if client.from.is_some() { Transport::Plain } else { Transport::Local },
        address: client.from.map(IpAddr::V4),
        user: client.user,
        database: if client.replication == Some("true") { "" } else { client.database },
        replication: client.replication == Some("true"),
    };
    let loopback = Interface {
        address: Ipv4Addr::LOCALHOST.into(),
        netmask: Ipv4Addr::new(255, 0, 0, 0).into(),
    };
    let interfaces = [loopback];
    let mut search = Search::new(rules, connection, &Roles, &interfaces);
    loop {
        match search.poll() {
            Step::Decided(Some(rule)) => return rule.method.as_str().to_owned(),
            Step::Decided(None) => return "none".to_owned(),
            Step::Reverse(address) => search.handle_names(name_of(address)),
            Step::Forward(name) => {
                let found = (name.as_str(), 0).to_socket_addrs().map_err(|it| it.to_string());
                let found = found.map(|all| all.map(|it| it.ip()).collect::<Vec<_>>());
                search.handle_addresses(found.as_deref().map_err(Clone::clone));
            }
        }
    }
}

/// The name of an address, as the system has it.
fn name_of(address: IpAddr) -> Result<String, String> {
    let output = Command::new("getent").args(["hosts", &address.to_string()]).output();
    let output = output.expect("getent is of the C library");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1).map(str::to_owned).ok_or_else(|| "unknown".to_owned())
}

#[test]
fn verdicts_are_those_of_postgresql() {
    let scratch = Scratch::new();
    let mut judge = Judge::start(&scratch);
    for (name, text) in rules::SIDE_FILES {
        let path = judge.data.join(name);
        fs::write(&path, text).expect("a file");
        give_to_postgres(&path);
    }
    let newer: &[&str] = if major() >= 16 { &rules::SINCE_16 } else { &[] };
    let written = rules::FILES.iter().chain(newer).map(|text| (*text).to_owned());
    let mut seen = BTreeSet::new();
    let mut pairs = 0;
    for hba in written.chain(rules::random_files()) {
        let theirs = judge.words(&hba, &rules::CLIENTS);
        let path = judge.data.join("pg_hba.conf").display().to_string();
        let (ours, remarks) = Rules::load(&AuthFiles, &path, false);
        let ours = ours.unwrap_or_else(|| panic!("{hba}\n{remarks:?}"));
        for (client, theirs) in rules::CLIENTS.iter().zip(&theirs) {
            assert_eq!(verdict(&ours, *client), *theirs, "{client:?} by\n{hba}");
            seen.insert(theirs.clone());
            pairs += 1;
        }
    }
    assert!(pairs >= 700, "{pairs} pairs");
    let kinds = ["none", "password", "reject", "scram-sha-256", "trust"];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), kinds);
}

#[test]
fn the_views_show_files_and_faults_as_postgresql_s() {
    let scratch = Scratch::new();
    let judge = Judge::start(&scratch);
    let hub = Hub::named("hub").start(&scratch);
    let newer = if major() >= 16 { rules::LINES_SINCE_16 } else { "" };
    for (file, text) in [
        ("pg_hba.conf", format!("{}{newer}", rules::LINES)),
        ("pg_ident.conf", rules::IDENT_LINES.to_owned()),
    ] {
        fs::write(judge.data.join(file), &text).expect("a file");
        fs::write(hub.data().join(file), &text).expect("a file");
    }
    let newer = if major() >= 16 { ", rule_number" } else { "" };
    let rules = format!(
        "select line_number, type, database, user_name, address, netmask, auth_method, options, \
         error{newer} from pg_hba_file_rules order by line_number"
    );
    assert_eq!(hub.psql(&rules), judge.psql(&rules));
    if major() >= 15 {
        let newer = if major() >= 16 { ", map_number" } else { "" };
        let mappings = format!(
            "select line_number, map_name, sys_name, pg_username, error{newer} \
             from pg_ident_file_mappings order by line_number"
        );
        assert_eq!(hub.psql(&mappings), judge.psql(&mappings));
    }
    let path = hub.data().join("pg_hba.conf").display().to_string();
    assert_eq!(hub.psql("show hba_file"), path);
    assert_eq!(hub.psql("select distinct file_name from pg_hba_file_rules"), path);
}

/// What a hub first says to a client that comes from an address.
fn hub_says(hub: &Hub, from: [u8; 4], replication: Option<&'static str>) -> String {
    let client = Client { replication, ..client(from, "postgres", "postgres") };
    first_words(hub.endpoint(), Path::new(""), &[client]).remove(0)
}

const STRANGER: [u8; 4] = [127, 77, 0, 9];

fn append(path: &Path, line: &str) {
    let text = fs::read_to_string(path).expect("a file");
    fs::write(path, format!("{text}{line}\n")).expect("a file");
}

#[test]
fn who_no_line_is_for_stays_outside_until_a_reload_lets_it_in() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").start(&scratch);
    let hba = hub.data().join("pg_hba.conf");
    assert_eq!(hub_says(&hub, [127, 0, 0, 1], None), "trust");
    assert_eq!(hub_says(&hub, [127, 0, 0, 1], Some("true")), "trust");
    let mark = hub.log().mark();
    assert_eq!(hub_says(&hub, STRANGER, None), "none");
    let said = hub.log().wait_for(
        mark,
        "no pg_hba.conf entry for host \"127.77.0.9\", user \"postgres\", database \"postgres\", \
         no encryption",
    );
    assert!(said.contains("FATAL"), "{said}");

    append(&hba, "host all all 127.77.0.0/16 trust");
    assert_eq!(hub.psql("select pg_reload_conf()"), "t");
    wait_until("the stranger is let in", || hub_says(&hub, STRANGER, None) == "trust");
    // Replication is asked for by its own name.
    assert_eq!(hub_says(&hub, STRANGER, Some("true")), "none");
    assert_eq!(hub_says(&hub, STRANGER, Some("database")), "trust");
    append(&hba, "host replication all 127.77.0.0/16 reject");
    send_signal(hub.pid(), Signal::HUP);
    wait_until("the stranger is rejected", || hub_says(&hub, STRANGER, Some("true")) == "reject");

    // A fault leaves everything as it is, and is told with its place.
    append(&hba, "host all all 1.2.3.4/40 trust\nhost all all all ldap ldapserver=x");
    let mark = hub.log().mark();
    send_signal(hub.pid(), Signal::HUP);
    let said = hub.log().wait_for(mark, "was not reloaded");
    let lines = fs::read_to_string(&hba).expect("a file").lines().count();
    for text in [
        "LOG:  invalid CIDR mask in address \"1.2.3.4/40\"".to_owned(),
        format!("CONTEXT:  line {} of configuration file \"{}\"", lines - 1, hba.display()),
        "LOG:  invalid authentication method \"ldap\": not supported by this build".to_owned(),
        format!("CONTEXT:  line {lines} of configuration file \"{}\"", hba.display()),
    ] {
        let log = hub.log().text(mark);
        assert!(log.contains(&text), "{text} is not in\n{log}\n{said}");
    }
    assert_eq!(hub_says(&hub, STRANGER, None), "trust");

    hub.stop(StopMode::Fast);
    let said = hub.refusal();
    assert!(said.contains("invalid CIDR mask in address \"1.2.3.4/40\""), "{said}");
    assert!(said.contains(&format!("FATAL:  could not load {}", hba.display())), "{said}");
}

#[test]
fn methods_that_are_not_there_let_nobody_in() {
    let scratch = Scratch::new();
    let hba = scratch.file("hba", "host all all 127.77.0.9/32 password\nhost all all all trust\n");
    let hub = Hub::named("hub").set("hba_file", hba.display().to_string()).start(&scratch);
    assert_ne!(hub_says(&hub, STRANGER, None), "trust");
    assert_eq!(hub_says(&hub, [127, 77, 0, 10], None), "trust");
}

#[test]
fn a_data_directory_gets_its_files_once() {
    let scratch = Scratch::new();
    let mut hub = Hub::named("hub").build(&scratch);
    let data = hub.data().display().to_string();
    let output = walhub(["init", "-D", &data]);
    let text = said(&output);
    assert!(text.contains("enabling \"trust\" authentication for local connections"), "{text}");
    assert!(text.contains("You can change this by editing pg_hba.conf"), "{text}");
    let (hba, ident) = (hub.data().join("pg_hba.conf"), hub.data().join("pg_ident.conf"));
    let records = |path: &Path| {
        let text = fs::read_to_string(path).expect("a file");
        let records = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        records
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    // The lines of initdb.
    let judge = Cluster::init(scratch.dir(), "judge", &[]).expect("initdb");
    assert_eq!(records(&hba), records(&judge.data.join("pg_hba.conf")));
    assert_eq!(records(&ident), [""; 0]);
    hub.start();
    assert_eq!(hub.log().count(hub.log().beginning(), "enabling \"trust\""), 0);
    hub.stop(StopMode::Fast);

    // One of an earlier walhub has neither, and goes on as it did.
    fs::remove_file(&hba).expect("it was there");
    fs::remove_file(&ident).expect("it was there");
    hub.start();
    assert_eq!(hub.log().count(hub.log().beginning(), "enabling \"trust\""), 1);
    hub.stop(StopMode::Fast);
    assert!(hba.exists() && ident.exists());

    // Where somebody has removed the rules nobody is trusted.
    fs::remove_file(&hba).expect("it was there");
    let said = hub.refusal();
    let missing = format!("could not open file \"{}\": No such file or directory", hba.display());
    assert!(said.contains(&missing) && said.contains("could not load"), "{said}");
}
