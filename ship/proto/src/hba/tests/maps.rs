use super::*;

const IDENT: &str = "/data/pg_ident.conf";

fn maps(text: &str) -> Maps {
    let (maps, remarks) = Maps::load(&FakeFiles::new(&[(IDENT, text)]), IDENT);
    maps.unwrap_or_else(|| panic!("{text}: {remarks:?}"))
}

#[test]
fn names_of_the_system_are_mapped_to_roles() {
    for (text, system_user, role, want) in [
        ("m bryanh bryanh", "bryanh", "bryanh", true),
        ("m bryanh bob", "bryanh", "bob", true),
        ("m bryanh bob", "bryanh", "alice", false),
        ("n bryanh bob", "bryanh", "bob", false),
        ("m x bob\nm bryanh bob", "bryanh", "bob", true),
        ("m bryanh all", "bryanh", "whoever", true),
        ("m bryanh \"all\"", "bryanh", "whoever", false),
        ("m bryanh +staff", "bryanh", "alice", true),
        ("m bryanh +staff", "bryanh", "carol", false),
        ("m bryanh \"+staff\"", "bryanh", "+staff", true),
        ("m bryanh /^al", "bryanh", "alice", true),
        ("m bryanh /^al", "bryanh", "bob", false),
        ("m /^(.*)@mydomain\\.com$ \\1", "alice@mydomain.com", "alice", true),
        ("m /^(.*)@mydomain\\.com$ \\1", "alice@mydomainxcom", "alice", false),
        ("m /^(.*)@mydomain\\.com$ \\1", "alice@mydomain.com", "bob", false),
        ("m /^(.*)@otherdomain\\.com$ guest", "x@otherdomain.com", "guest", true),
        ("m \"/^(.*), (.*)$\" a_\\1_b", "x, y", "a_x_b", true),
        // Only the first one is replaced, and what comes of it is a name.
        ("m /^(.*)$ \\1\\1", "a", "a\\1", true),
        ("m /^(.*)$ \\1", "all", "whoever", false),
        ("m /^(.*)$ +\\1", "staff", "alice", false),
        ("m /^(.*)$ +staff", "x", "alice", true),
        // In a regular expression it is a back reference, which is refused elsewhere.
        ("m /^(.*)$ /^a", "x", "alice", true),
        ("\"m\" bryanh bob", "bryanh", "bob", true),
    ] {
        let got = maps(text).check(Some("m"), system_user, role, &Roles);
        assert_eq!(got.is_ok(), want, "{text}: {system_user} as {role}: {got:?}");
    }
}

#[test]
fn without_a_map_both_names_are_the_same() {
    let maps = maps("");
    assert_eq!(maps.check(None, "a", "a", &Roles), Ok(()));
    assert_eq!(maps.check(Some(""), "a", "a", &Roles), Ok(()));
    for (map, text) in [
        (None, "provided user name (bob) and authenticated user name (a) do not match"),
        (Some("m"), "no match in usermap \"m\" for user \"bob\" authenticated as \"a\""),
    ] {
        assert_eq!(maps.check(map, "a", "bob", &Roles).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_group_that_is_not_there_ends_the_search() {
    let maps = maps("m /^a \\1\nm a bob\n");
    assert_eq!(
        maps.check(Some("m"), "a", "bob", &Roles).unwrap_err().to_string(),
        "regular expression \"^a\" has no subexpressions as requested by backreference in \"\\1\""
    );
}

#[test]
fn faults_are_in_postgresql_s_words() {
    for (text, message) in [
        ("m", "missing entry at end of line"),
        ("m a", "missing entry at end of line"),
        ("m a,b c", "multiple values in ident field"),
        ("m,n a c", "multiple values in ident field"),
        ("m a c,d", "multiple values in ident field"),
        ("m /( c", "invalid regular expression \"(\": parentheses () not balanced"),
        ("m a /[", "invalid regular expression \"[\": brackets [] not balanced"),
    ] {
        let files = FakeFiles::new(&[(IDENT, &format!("\n{text}\n"))]);
        let (maps, remarks) = Maps::load(&files, IDENT);
        assert!(maps.is_none(), "{text}");
        assert_eq!(remarks[0].message, message, "{text}");
        assert_eq!(
            remarks[0].context.as_deref(),
            Some("line 2 of configuration file \"/data/pg_ident.conf\"")
        );
        let rows = Maps::rows(&files, IDENT).unwrap();
        assert_eq!((rows[0].number, rows[0].fault.as_deref()), (None, Some(message)));
    }
    let files = FakeFiles::new(&[(IDENT, "m a b\ninclude x\n"), ("/data/x", "n c +d ignored\n")]);
    let rows = Maps::rows(&files, IDENT).unwrap();
    let names: Vec<_> = rows
        .iter()
        .map(|row| (row.number, row.file.as_str(), row.names.clone().unwrap()))
        .collect();
    let of = |all: [&str; 3]| all.map(str::to_owned);
    assert_eq!(
        names,
        [(Some(1), IDENT, of(["m", "a", "b"])), (Some(2), "/data/x", of(["n", "c", "+d"]))]
    );
}
