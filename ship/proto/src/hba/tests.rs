use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use alloc::{format, vec};

use super::*;

mod grammar;
mod includes;
mod maps;
mod matching;
mod patterns;

/// Files by path.
#[derive(Default)]
struct FakeFiles(BTreeMap<String, String>);

const HBA: &str = "/data/pg_hba.conf";

impl FakeFiles {
    fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn hba(text: &str) -> Self {
        Self::new(&[(HBA, text)])
    }
}

fn missing() -> Unreadable {
    Unreadable { is_missing: true, reason: "No such file or directory".to_owned() }
}

impl Files for FakeFiles {
    fn read(&self, path: &str) -> Result<String, Unreadable> {
        self.0.get(path).cloned().ok_or_else(missing)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, Unreadable> {
        let prefix = format!("{path}/");
        let names = self.0.keys().filter_map(|path| path.strip_prefix(&prefix));
        let names: Vec<String> =
            names.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        if names.is_empty() { Err(missing()) } else { Ok(names) }
    }
}

/// Roles: every user is a member of itself; of others as listed.
struct Roles;

const MEMBERS: [(&str, &str); 3] = [("alice", "staff"), ("bob", "staff"), ("alice", "shop")];
const ROLES: [&str; 6] = ["alice", "bob", "carol", "staff", "shop", "postgres"];

impl Membership for Roles {
    fn role_exists(&self, role: &str) -> bool {
        ROLES.contains(&role)
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        user == role || MEMBERS.contains(&(user, role))
    }
}

fn rules(text: &str) -> Rules {
    let (rules, remarks) = Rules::load(&FakeFiles::hba(text), HBA, true);
    rules.unwrap_or_else(|| panic!("{text}: {remarks:?}"))
}

/// What is wrong with a file, without its places.
fn faults(text: &str) -> Vec<String> {
    let (rules, remarks) = Rules::load(&FakeFiles::hba(text), HBA, true);
    assert!(rules.is_none(), "{text} has rules");
    remarks.into_iter().map(|remark| remark.message).collect()
}

#[test]
fn a_new_data_directory_lets_in_who_is_on_this_machine() {
    let text = initial_file(Method::Trust, Method::ScramSha256);
    assert!(text.contains("# CAUTION: with \"trust\" below"));
    let of =
        |rule: &alloc::sync::Arc<Rule>| (rule.connection_type, rule.addresses.clone(), rule.method);
    let all: Vec<_> = rules(&text).as_slice().iter().map(of).collect();
    let range = |address: &str, mask: &str| {
        let (address, mask) = (address.parse().unwrap(), mask.parse().unwrap());
        Some(Addresses::Range { address, mask })
    };
    let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let once = [
        (ConnectionType::Local, None, Method::Trust),
        (ConnectionType::Host, range("127.0.0.1", "255.255.255.255"), Method::ScramSha256),
        (ConnectionType::Host, range("::1", all_ones), Method::ScramSha256),
    ];
    assert_eq!(all, [once.clone(), once].concat());
    assert!(!initial_file(Method::Peer, Method::ScramSha256).contains("CAUTION"));
    for method in ["@authmethod", "@authcomment", "@remove"] {
        assert!(!text.contains(method), "{method}");
    }
    let files = FakeFiles::new(&[("/data/pg_ident.conf", &initial_ident_file())]);
    assert!(Maps::load(&files, "/data/pg_ident.conf").0.is_some());
}
