//! The table: files, and who connects.

use super::{Client, client};

/// Files that others name with @, and since 16 with include.
pub(super) const SIDE_FILES: [(&str, &str); 4] = [
    ("dbs", "db1, db2\n# db3\n\"all\"\n"),
    ("users", "@more, u3\n"),
    ("more", "u1\n+db1\n"),
    ("extra.conf", "host db1 u1 all password\nhost all +g2 all reject\n"),
];

pub(super) const FILES: [&str; 25] = [
    "local all all trust\nhost all all 127.0.0.1/32 trust\nlocal replication all trust\n\
     host replication all 127.0.0.1/32 trust",
    "host all all 127.0.0.0/8 trust",
    "host all all 127.1.0.0/16 reject\nhost all all 127.0.0.0 255.0.0.0 trust\n\
     local all all reject\nlocal replication all trust",
    "host sameuser all all trust\nhost samerole all all reject\nhost all u1,u2 all password\n\
     local samegroup +g1 scram-sha-256",
    "host \"all\" all all trust\nhost \"replication\" all all reject\n\
     host replication all all password\nhost all \"u1\" all scram-sha-256\n\
     local \"sameuser\" all trust\nlocal \"replication\" all password",
    "host all +g2 all trust\nhost all +nosuch all reject\nhost all \"+g2\" all password\n\
     host all +postgres all scram-sha-256\nlocal all +g1 reject",
    "host replication,db1 u1 all trust\nhost all u1 all reject\n\
     host replication +g1 samenet password\nlocal replication,all all scram-sha-256",
    "hostssl all all all trust\nhostnossl all u1 all reject\nhostnogssenc all all all password\n\
     hostnogssenc replication all all scram-sha-256",
    "host all all samehost trust\nhost all all samenet reject",
    "host all all \"samenet\" trust\nhost all \"all\" all reject\nhost all all all password",
    "host all all 127.1/32 trust\nhost all all 127.1 255.255.255.255 reject\n\
     host all all 0x7f.2.0.0/16 password\nhost all all 127.0.3.0 255.0.255.0 scram-sha-256",
    "host all all localhost trust\nhost all all .localdomain reject\n\
     host all all 127.0.0.0/8 password",
    "host all all LOCALHOST trust\nhost all all .host reject\nhost all all no.such.host trust",
    "host \\\n all all \\\n all trust # x\n# \\\nlocal all all reject\nlocal all all trust",
    "host @dbs @users all trust\nlocal @dbs all reject\nhost all @more all password",
    "host all u1, u2,\tu3 all trust\nhost db1,,db2 all all reject",
    "host all U1 all trust\nhost DB1 all all reject\nhost db1 all all password",
    "host all all ::/0 trust\nhost all all ::ffff:127.0.0.1/96 reject\n\
     host all all 127.0.0.1/31 password\nhost all all 0.0.0.0/0 scram-sha-256",
    "host db\"1\" all all trust\nhost \"db 2\" all all reject\nhost \"d\"\"q\" all all password\n\
     local \"a,b\" \"u,\" trust#c",
    "host all all 127.0.0.1/32 reject\nhost all all 127.0.0.0/30 password\n\
     host all all 127.0.0.0/8 trust\nhost all all all reject",
    "local all all trust",
    "host replication all all reject\nhost all all all trust\nlocal replication u1 password\n\
     local replication all trust\nlocal all all reject",
    "host all all 127.0.0.0 255.0.0.255 trust\nhost all all 127.77.0.0/12 reject",
    "host db1,db2,db3,postgres u1,u2,u3 127.0.0.0/9 trust\nhost all all 127.64.0.0/10 password",
    "host all all 127.0.0.1/+32 trust\nhost all all \"127.0.0.2\" \"255.255.255.255\" reject",
];

pub(super) const SINCE_16: [&str; 5] = [
    "host /^db[12]$ all all trust\nhost \"/^(db3|u1),?$\" all all reject\nhost /rep all all password",
    "host all /^u[0-9]$ all trust\nhost all /^.*1$ all reject\nlocal all /^U1 trust\nlocal all /(?i)^U1 reject",
    "host all /\\mu1\\M all trust\nhost all /^[[:alpha:]]\\d{1,2}$ all reject",
    "include extra.conf\ninclude_if_exists none.conf\nlocal all all trust",
    "host all \"/^@\" all trust\nhost all all all reject",
];

const fn local(user: &'static str, database: &'static str) -> Client {
    Client { from: None, user, database, replication: None }
}

const fn standby(of: Client, mode: &'static str) -> Client {
    Client { replication: Some(mode), ..of }
}

const HOME: [u8; 4] = [127, 0, 0, 1];

pub(super) const CLIENTS: [Client; 30] = [
    client(HOME, "u1", "db1"),
    client(HOME, "u1", "u1"),
    client(HOME, "u1", "g1"),
    client(HOME, "u1", "g2"),
    client(HOME, "u2", "db1"),
    client(HOME, "u2", "db2"),
    client(HOME, "u3", "db1"),
    client(HOME, "u3", "all"),
    client(HOME, "u3", "replication"),
    client(HOME, "all", "db3"),
    client(HOME, "nobody", "nobody"),
    client(HOME, "postgres", "postgres"),
    client(HOME, "replication", "replication"),
    client(HOME, "+g2", "db1"),
    client([127, 0, 0, 2], "u1", "db1"),
    client([127, 0, 0, 3], "u2", "db2"),
    client([127, 0, 3, 9], "u1", "db1"),
    client([127, 1, 2, 3], "u2", "db1"),
    client([127, 2, 2, 3], "u3", "sameuser"),
    client([127, 77, 0, 1], "u1", "db 2"),
    client([127, 200, 0, 0], "u2", "d\"q"),
    standby(client(HOME, "u1", "db1"), "true"),
    standby(client(HOME, "u2", "replication"), "true"),
    standby(client(HOME, "u1", "db1"), "database"),
    standby(client([127, 1, 0, 1], "u3", "db1"), "true"),
    local("u1", "db1"),
    local("u2", "sameuser"),
    local("u1", "replication"),
    standby(local("u1", "db1"), "true"),
    standby(local("u3", "u3"), "database"),
];

/// Files of four rules, made of parts by a seed.
pub(super) fn random_files() -> impl Iterator<Item = String> {
    const DATABASES: [&str; 10] = [
        "all",
        "replication",
        "sameuser",
        "samerole",
        "db1",
        "db1,db2",
        "\"all\"",
        "replication,u1",
        "@dbs",
        "all,replication",
    ];
    const USERS: [&str; 8] = ["all", "u1", "u2,u3", "+g1", "+g2", "\"+g2\"", "@users", "\"all\""];
    const ADDRESSES: [&str; 9] = [
        "all",
        "samehost",
        "samenet",
        "127.0.0.0/8",
        "127.0.0.1/32",
        "127.0.0.2/31",
        "127.1.0.0 255.255.0.0",
        "::1/128",
        "localhost",
    ];
    const METHODS: [&str; 4] = ["trust", "reject", "password", "scram-sha-256"];
    // Marsaglia's xorshift.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut below = move |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(count).unwrap_or(1)).unwrap_or(0)
    };
    (0..20).map(move |_| {
        let mut rule = || {
            let (database, user) = (DATABASES[below(DATABASES.len())], USERS[below(USERS.len())]);
            let method = METHODS[below(METHODS.len())];
            match below(4) {
                0 => format!("local {database} {user} {method}"),
                _ => {
                    format!("host {database} {user} {} {method}", ADDRESSES[below(ADDRESSES.len())])
                }
            }
        };
        (0..4).map(|_| rule()).collect::<Vec<_>>().join("\n")
    })
}

/// Lines of pg_hba.conf, many of them wrong, that PostgreSQL 15 and walhub show alike. Not here: wrong values of
/// `clientcert` and `clientname`, of which PostgreSQL's view does not say what its log does.
pub(super) const LINES: &str = r#"# a comment
local all all trust
host all,"quoted all" u1,+g1 127.0.0.1/8 scram-sha-256
host replication,sameuser all 10.0.0.0 255.0.0.0 md5
hostssl all all ::1/64 cert map=m clientcert=verify-full
hostnossl db all example.com password
hostnogssenc db all .example.com reject
local all all peer map="a b"
local all all ident
host all all samehost trust
host all all samenet trust
host all all all trust \
  # with more

lokal all all trust
local,host all all trust
local
local all
local all all
host all all
host all all 1.2.3.4
host all all 1.2.3.4,1.2.3.5 trust
host all all 1.2.3.4/33 trust
host all all 1.2.3.4/ trust
host all all 1.2.3.4/x trust
host all all ::1/129 trust
host all all example.com/8 trust
host all all 1.2.3.4 trust
host all all 1.2.3.4 ffff:: trust
host all all 1.2.3.4 1,2 trust
local all all trust,reject
local all all trusted
host all all all peer
host all all all cert
local all all trust yes
local all all trust x=y
local all all trust clientcert=verify-ca
host all all all trust clientname=CN
hostssl all all all md5 clientname=DN clientcert=verify-ca
local all all md5 ldapserver=m
local all all md5 pamservice=m
local all all md5 krb_realm=m
local all all md5 upn_username=m
local all all md5 radiusservers=m
"#;

pub(super) const LINES_SINCE_16: &str = r#"local /^db[0-9]+$ "/^a,b" trust
local /( all trust
local all /[ trust
local all /a{2 trust
local all /a** trust
local all /\q trust
local all /[b-a] trust
local all /[[:nix:]] trust
"#;

pub(super) const IDENT_LINES: &str = r#"# a comment
m a b
m /^(.*)@x\.com$ \1
"m n" "a b" c
m
m a
m a,b c
m,n a c
m a c,d
m /( c
m a b ignored
"#;
