use super::*;

fn load(files: &[(&str, &str)]) -> (Option<Rules>, Vec<Remark>) {
    Rules::load(&FakeFiles::new(files), HBA, true)
}

/// File and line of each rule.
fn places(files: &[(&str, &str)]) -> Vec<String> {
    let (rules, remarks) = load(files);
    let rules = rules.unwrap_or_else(|| panic!("{remarks:?}"));
    rules.as_slice().iter().map(|rule| format!("{}:{}", rule.file, rule.line)).collect()
}

const RULE: &str = "local all all trust\n";

#[test]
fn files_are_included_where_they_are_named() {
    let hba = format!("{RULE}include more.conf\ninclude_if_exists none.conf\n{RULE}");
    assert_eq!(
        places(&[(HBA, &hba), ("/data/more.conf", &format!("# x\n{RULE}"))]),
        ["/data/pg_hba.conf:1", "/data/more.conf:2", "/data/pg_hba.conf:4"]
    );
    let hba = "include \"with blank/a.conf\"\ninclude /etc/b.conf\ninclude ./x/../c.conf\n";
    let files = [
        (HBA, hba),
        // A relative name is relative to the file that it is in.
        ("/data/with blank/a.conf", "include a/../b.conf\n"),
        ("/data/with blank/b.conf", RULE),
        ("/etc/b.conf", RULE),
        ("/data/c.conf", RULE),
    ];
    assert_eq!(places(&files), ["/data/with blank/b.conf:1", "/etc/b.conf:1", "/data/c.conf:1"]);
}

#[test]
fn a_directory_is_included_by_name() {
    let files = [
        (HBA, "include_dir d\n"),
        ("/data/d/b.conf", RULE),
        ("/data/d/a.conf", RULE),
        ("/data/d/.hidden.conf", "fault"),
        ("/data/d/other", "fault"),
        ("/data/d/.conf", "fault"),
    ];
    assert_eq!(places(&files), ["/data/d/a.conf:1", "/data/d/b.conf:1"]);
}

#[test]
fn words_come_from_files() {
    let files = [
        (HBA, "local @dbs,other @users trust\n"),
        ("/data/dbs", "one, two # and\nthree\n\"all\"\n"),
        ("/data/users", "@more\nalice"),
        ("/data/more", "bob"),
    ];
    let (rules, _) = load(&files);
    let rules = rules.unwrap();
    let texts =
        |names: &[Name]| names.iter().map(|name| name.text().to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(&rules.as_slice()[0].databases), ["one", "two", "three", "all", "other"]);
    assert_eq!(texts(&rules.as_slice()[0].users), ["bob", "alice"]);
    let none = Connection {
        transport: Transport::Local,
        address: None,
        user: "alice",
        database: "four",
        replication: false,
    };
    assert!(matches!(Search::new(&rules, none, &Roles, &[]).poll(), Step::Decided(None)));
}

#[test]
fn what_cannot_be_included_is_a_fault_of_the_line() {
    let missing = |path: &str| format!("could not open file \"{path}\": No such file or directory");
    for (hba, message) in [
        ("include no.conf\n", missing("/data/no.conf")),
        ("local @no all trust\n", missing("/data/no")),
        (
            "include self\n",
            "could not open file \"/data/self\": maximum nesting depth exceeded".into(),
        ),
        (
            "local @self all trust\n",
            "could not open file \"/data/self\": maximum nesting depth exceeded".into(),
        ),
        ("include_dir \" \"\n", "empty configuration directory name: \" \"".into()),
        (
            "include_dir no\n",
            "could not open configuration directory \"/data/no\": No such file or directory".into(),
        ),
        // With more words it is no inclusion.
        ("include a b\n", "invalid connection type \"include\"".into()),
    ] {
        let own = if hba.starts_with("include") { "include self\n" } else { "@self" };
        let (rules, remarks) = load(&[(HBA, hba), ("/data/self", own)]);
        assert!(rules.is_none(), "{hba}");
        let messages: Vec<_> = remarks.iter().map(|remark| &remark.message).collect();
        assert_eq!(messages, [&message], "{hba}");
    }
    // The path to a fault is told from the inside.
    let (_, remarks) = load(&[(HBA, "\ninclude a\n"), ("/data/a", "\n\ninclude b\n")]);
    assert_eq!(
        remarks[0].context.as_deref(),
        Some(
            "line 3 of configuration file \"/data/a\"\n\
             line 2 of configuration file \"/data/pg_hba.conf\""
        )
    );
    assert_eq!(load(&[]).1[0].message, missing(HBA));
    let rows = Rules::rows(&FakeFiles::new(&[(HBA, "include_dir no\n")]), HBA, true).unwrap();
    assert_eq!(rows[0].fault.as_deref(), Some("could not open directory \"/data/no\""));
}

#[test]
fn a_missing_file_that_may_be_missing_is_remarked() {
    let (rules, remarks) = load(&[(HBA, &format!("include_if_exists no\n{RULE}"))]);
    assert!(rules.is_some());
    assert_eq!(remarks[0].message, "skipping missing authentication file \"/data/no\"");
}

#[test]
fn files_that_include_each_other_over_and_over_come_to_an_end() {
    let many = "include self\n".repeat(20);
    let (rules, remarks) = load(&[(HBA, "include self\n"), ("/data/self", &many)]);
    assert!(rules.is_none());
    assert!(remarks.iter().any(|remark| remark.message.ends_with("too many files are included")));
}
