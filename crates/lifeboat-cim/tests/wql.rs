//! WQL from its rules: what is read, what is refused and where, and what a condition selects. The expected results are
//! written down by hand; that a query means the same after it was printed is tried with many.

#![allow(clippy::too_many_lines, clippy::unwrap_used)]

use lifeboat_cim::wql::{
    Column, Columns, Condition, MAX_DEPTH, MAX_LENGTH, Operand, Operator, Pattern, Query, Related, Select,
    SystemColumns, parse,
};
use lifeboat_cim::{DateTime, Instance, InstanceName, Namespace, ObjectPath, Schema, Status, Value};
use proptest::prelude::*;

fn v2() -> &'static Namespace {
    Schema::builtin().namespace("root/virtualization/v2").unwrap()
}

fn select(text: &str) -> Select {
    match parse(text) {
        Ok(Query::Select(select)) => select,
        other => panic!("{text}: {other:?}"),
    }
}

fn job() -> Instance {
    Instance::new("Msvm_ConcreteJob")
        .with("InstanceID", "3F2504E0-4F89-11D3-9A0C-0305E82C3301")
        .with("ElementName", "Initiate failover of \"sql-1\"")
        .with("Caption", "12")
        .with("JobState", 7_u16)
        .with("PercentComplete", 100_u16)
        .with("Cancellable", false)
        // 2024-03-01 10:00:00 UTC.
        .with("StartTime", DateTime::Instant(1_709_287_200_000_000))
        .with("ElapsedTime", DateTime::Interval(90_000_000))
        .with("OperationalStatus", vec![2_u16])
}

fn system() -> SystemColumns {
    SystemColumns {
        server: "hv-1".to_owned(),
    }
}

fn matches(condition: &str, instance: &Instance) -> bool {
    let query = select(&format!("SELECT * FROM Msvm_ConcreteJob WHERE {condition}"));
    query.selects(v2(), instance, &system())
}

#[test]
fn conditions_select_what_they_say() {
    for (condition, selected) in [
        ("JobState = 7", true),
        ("jobstate=7", true),
        ("JobState = '7'", true),
        ("JobState = \"007\"", true),
        ("JobState = 7.0", true),
        ("JobState <> 7", false),
        ("JobState != 8", true),
        ("JobState = 'seven'", false),
        ("JobState <> 'seven'", true),
        ("JobState < 'seven'", false),
        ("JobState > 6 AND JobState < 8", true),
        ("JobState >= 7 and JobState <= 7", true),
        ("JobState > 7 Or PercentComplete = 100", true),
        ("NOT JobState = 8", true),
        ("not (JobState = 7 or JobState = 8)", false),
        ("JobState = 8 AND JobState = 9 OR JobState = 7", true),
        ("JobState = 8 AND (JobState = 9 OR JobState = 7)", false),
        ("7 = JobState", true),
        ("8 > JobState", true),
        ("JobState = -7", false),
        ("JobState < PercentComplete", true),
        ("Cancellable = FALSE", true),
        ("Cancellable = false", true),
        ("Cancellable = 'False'", true),
        ("Cancellable = 0", true),
        ("Cancellable <> TRUE", true),
        ("InstanceID = '3f2504e0-4f89-11d3-9a0c-0305e82c3301'", true),
        ("InstanceID LIKE '3f25%3301'", true),
        ("InstanceID like '%-11D_-%'", true),
        ("InstanceID LIKE '[0-3]%'", true),
        ("InstanceID LIKE '[^0-3]%'", false),
        ("InstanceID LIKE '3f25'", false),
        ("NOT InstanceID LIKE '3f25%'", false),
        ("PercentComplete LIKE '10_'", true),
        ("ElementName = 'initiate failover of \\\"SQL-1\\\"'", true),
        ("ElementName = 'initiate failover of \"SQL-1\"'", true),
        ("ElementName = \"initiate failover of \\\"SQL-1\\\"\"", true),
        ("Caption = 12", true),
        ("Caption < 100", true),
        ("Caption < '2'", true),
        ("StartTime = '20240301100000.000000+000'", true),
        ("StartTime = '20240301110000.000000+060'", true),
        ("StartTime > '20240301095959.000000+000'", true),
        ("StartTime = '2024-03-01T10:00:00Z'", true),
        ("StartTime = 'yesterday'", false),
        ("ElapsedTime > '00000000000100.000000:000'", true),
        ("ElapsedTime = 'PT1M30S'", true),
        ("StartTime > 'PT1M30S'", false),
        ("__CLASS = 'msvm_concretejob'", true),
        ("__SERVER = 'HV-1'", true),
        ("Caption <> __SERVER", true),
        ("__THIS ISA 'CIM_Job'", true),
        ("__this isa Msvm_ReplicationRelationship", false),
    ] {
        assert_eq!(matches(condition, &job()), selected, "{condition}");
    }
}

#[test]
fn nothing_can_be_said_of_null() {
    // ErrorDescription is null. Neither a comparison nor its opposite selects it.
    for (condition, selected) in [
        ("ErrorDescription = 'x'", false),
        ("ErrorDescription <> 'x'", false),
        ("NOT ErrorDescription = 'x'", false),
        ("NOT (ErrorDescription = 'x' AND JobState = 7)", false),
        ("NOT (ErrorDescription = 'x' AND JobState = 8)", true),
        ("ErrorDescription = 'x' OR JobState = 7", true),
        ("ErrorDescription = 'x' OR JobState = 8", false),
        ("ErrorDescription LIKE '%'", false),
        ("ErrorDescription IS NULL", true),
        ("ErrorDescription is not null", false),
        ("ErrorDescription = NULL", true),
        ("NULL = ErrorDescription", true),
        ("ErrorDescription <> NULL", false),
        ("JobState IS NULL", false),
        ("JobState IS NOT NULL", true),
        ("OperationalStatus IS NOT NULL", true),
        ("NOT ErrorDescription IS NULL", false),
    ] {
        assert_eq!(matches(condition, &job()), selected, "{condition}");
    }
}

#[test]
fn columns_of_embedded_instances_and_paths() {
    let before = job().with("JobState", 4_u16);
    let event = Instance::new("CIM_InstModification")
        .with("SourceInstance", job())
        .with("PreviousInstance", before);
    let ask = |condition: &str| {
        let text = format!("SELECT * FROM CIM_InstModification WITHIN 0.5 WHERE {condition}");
        let query = select(&text);
        assert_eq!(query.within, Some(std::time::Duration::from_millis(500)));
        query.selects(v2(), &event, &system())
    };
    for (condition, selected) in [
        ("SourceInstance ISA 'Msvm_ConcreteJob'", true),
        (
            "SourceInstance ISA 'CIM_ConcreteJob' AND SourceInstance.JobState = 7",
            true,
        ),
        ("SourceInstance ISA 'Msvm_ComputerSystem'", false),
        ("SourceInstance.JobState <> PreviousInstance.JobState", true),
        (
            "SourceInstance.PercentComplete <> PreviousInstance.PercentComplete",
            false,
        ),
        ("sourceinstance.__CLASS = 'Msvm_ConcreteJob'", true),
        ("SourceInstance.ErrorDescription IS NULL", true),
        ("TargetInstance.JobState = 7", false),
        ("TargetInstance ISA 'Msvm_ConcreteJob'", false),
    ] {
        assert_eq!(ask(condition), selected, "{condition}");
    }
    let vm = InstanceName::new(
        "Msvm_ComputerSystem",
        &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", "AA")],
    );
    let link = Instance::new("Msvm_SettingsDefineState")
        .with("ManagedElement", ObjectPath::new("root/virtualization/v2", vm));
    let ask = |condition: &str| {
        let query = select(&format!(
            "SELECT * FROM Msvm_SettingsDefineState WHERE {condition}"
        ));
        query.selects(v2(), &link, &system())
    };
    assert!(ask(
        r#"ManagedElement = 'Msvm_ComputerSystem.Name="aa",CreationClassName="Msvm_ComputerSystem"'"#
    ));
    assert!(ask(
        r#"ManagedElement = "\\\\other\\root\\virtualization\\v2:Msvm_ComputerSystem.CreationClassName=\"Msvm_ComputerSystem\",Name=\"AA\"""#
    ));
    assert!(!ask(r#"ManagedElement = 'Msvm_ComputerSystem.Name="aa"'"#));
    assert!(ask("ManagedElement <> 'nonsense'"));
}

#[test]
fn columns_come_as_asked() {
    let query =
        select("select ElementName, __PATH, errordescription, __RELPATH,__CLASS from Msvm_ConcreteJob");
    let text = |t: &str| Some(Value::Text(t.to_owned()));
    let path = r#"Msvm_ConcreteJob.InstanceID="3F2504E0-4F89-11D3-9A0C-0305E82C3301""#;
    assert_eq!(
        query.project(v2(), &job(), &system()).unwrap(),
        vec![
            ("ElementName".to_owned(), text("Initiate failover of \"sql-1\"")),
            (
                "__PATH".to_owned(),
                text(&format!(r"\\hv-1\root\virtualization\v2:{path}"))
            ),
            ("ErrorDescription".to_owned(), None),
            ("__RELPATH".to_owned(), text(path)),
            ("__CLASS".to_owned(), text("Msvm_ConcreteJob")),
        ]
    );
    assert_eq!(select("SELECT * FROM X").project(v2(), &job(), &system()), None);
}

#[test]
fn the_schema_is_asked() {
    for (query, status) in [
        ("SELECT * FROM Msvm_Nonsense", Some(Status::InvalidClass)),
        (
            "SELECT Nonsense FROM Msvm_ConcreteJob",
            Some(Status::InvalidQuery),
        ),
        (
            "SELECT * FROM Msvm_ConcreteJob WHERE Nonsense = 1",
            Some(Status::InvalidQuery),
        ),
        (
            "SELECT * FROM Msvm_ConcreteJob WHERE NOT (JobState = 1 OR x LIKE 'a')",
            Some(Status::InvalidQuery),
        ),
        (
            "SELECT * FROM Msvm_ConcreteJob WHERE OperationalStatus = 2",
            Some(Status::InvalidQuery),
        ),
        (
            "SELECT OperationalStatus, __PATH FROM msvm_concretejob WHERE OPERATIONALSTATUS IS NULL",
            None,
        ),
        ("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER", None),
        (
            "SELECT * FROM __InstanceModificationEvent WITHIN 5 WHERE TargetInstance ISA 'X'",
            None,
        ),
    ] {
        let checked = select(query).check(v2());
        assert_eq!(checked.err().map(|e| e.status), status, "{query}");
    }
}

/// As virsh, dracclient's kin, the .NET clients and exporters write them.
#[test]
fn queries_of_real_clients_are_read() {
    let text = "select * from Msvm_ComputerSystem where Description = \"Microsoft Virtual Machine\" and EnabledState = 2 ";
    let query = select(text);
    let equal = |column: &str, value: Value| Condition::Compare {
        left: Operand::Column(Column::new(column)),
        operator: Operator::Equal,
        right: Operand::Literal(value),
    };
    assert_eq!(query.class, "Msvm_ComputerSystem");
    assert_eq!(
        query.condition,
        Some(Condition::All(vec![
            equal("Description", "Microsoft Virtual Machine".into()),
            equal("EnabledState", 2_u16.into()),
        ]))
    );
    let query =
        select("SELECT * FROM Msvm_ReplicationRelationship WHERE InstanceID='Microsoft:AA\\\\HVR\\\\0'");
    assert_eq!(
        query.condition,
        Some(equal("InstanceID", r"Microsoft:AA\HVR\0".into()))
    );
    let forgot = select(r"SELECT * FROM Msvm_ReplicationRelationship WHERE InstanceID='Microsoft:AA\HVR\0'");
    assert_eq!(forgot.condition, query.condition);
    let query = select(
        "SELECT ElementName, InstanceID, ReplicationHealth, ReplicationState FROM Msvm_ReplicationRelationship",
    );
    let Columns::Named(columns) = query.columns else {
        panic!()
    };
    assert_eq!(columns.len(), 4);
    let query = select(
        "select * from __InstanceModificationEvent within 5 where TargetInstance isa 'Msvm_ReplicationRelationship'",
    );
    assert_eq!(query.within, Some(std::time::Duration::from_secs(5)));
}

#[test]
fn relations_are_read() {
    let source = |namespace: Option<&str>| ObjectPath {
        host: None,
        namespace: namespace.map(str::to_owned),
        name: InstanceName::new(
            "Msvm_ComputerSystem",
            &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", "A}B")],
        ),
    };
    let none = Related {
        source: source(None),
        association: None,
        result: None,
        role: None,
        result_role: None,
    };
    let path = r#"Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="A}B""#;
    let text = format!(
        "ASSOCIATORS OF {{{path}}} WHERE AssocClass = Msvm_SettingsDefineState ResultClass = Msvm_VirtualSystemSettingData"
    );
    let both = Related {
        association: Some("Msvm_SettingsDefineState".to_owned()),
        result: Some("Msvm_VirtualSystemSettingData".to_owned()),
        ..none.clone()
    };
    assert_eq!(parse(&text), Ok(Query::Associators(both)));
    let text = format!("associators of {{ {path} }}");
    assert_eq!(parse(&text), Ok(Query::Associators(none.clone())));
    let text = format!(
        r"associators of {{\\hv-1\root\virtualization\v2:{path}}} where role=GroupComponent resultrole = 'PartComponent'"
    );
    let Ok(Query::Associators(related)) = parse(&text) else {
        panic!()
    };
    assert_eq!(
        related.source.namespace.as_deref(),
        Some("root/virtualization/v2")
    );
    assert_eq!(related.source.host, None);
    assert_eq!(
        (related.role.as_deref(), related.result_role.as_deref()),
        (Some("GroupComponent"), Some("PartComponent"))
    );
    let text =
        format!("REFERENCES OF {{{path}}} WHERE ResultClass = Msvm_SystemDevice Role = GroupComponent");
    let Ok(Query::References(related)) = parse(&text) else {
        panic!()
    };
    assert_eq!(related.result.as_deref(), Some("Msvm_SystemDevice"));
}

#[test]
fn what_is_no_query_is_refused_with_its_place() {
    for (text, message) in [
        ("", "the query is empty"),
        ("  \n", "the query is empty"),
        ("DELETE FROM X", "at character 1: expected SELECT"),
        (
            "SELECT",
            "at character 7: expected * or the name of a column, found the end of the query",
        ),
        (
            "SELECT FROM X",
            "at character 8: expected * or the name of a column, found FROM",
        ),
        (
            "SELECT a, FROM X",
            "at character 11: expected the name of a column, found FROM",
        ),
        ("SELECT * X", "at character 10: expected FROM, found X"),
        ("SELECT * FROM", "at character 14: expected the name of a class"),
        (
            "SELECT * FROM X WHERE",
            "at character 22: expected a column or a value, found the end of the query",
        ),
        ("SELECT * FROM X WHERE a", "at character 24: expected =, <>"),
        (
            "SELECT * FROM X WHERE a = ",
            "expected a value or a column, found the end of the query",
        ),
        (
            "SELECT * FROM X WHERE a == 1",
            "at character 26: expected a value or a column, found =",
        ),
        (
            "SELECT * FROM X WHERE a = 1 b = 2",
            "at character 29: expected the end of the query, found b",
        ),
        (
            "SELECT * FROM X WHERE (a = 1",
            "expected AND, OR or a closing parenthesis, found the end of the query",
        ),
        (
            "SELECT * FROM X WHERE a = 1)",
            "expected the end of the query, found )",
        ),
        (
            "SELECT * FROM X WHERE a = 'x",
            "at character 27: expected a closing quote",
        ),
        (
            "SELECT * FROM X WHERE ä = 1",
            "at character 23: expected a name, a value or a sign, found ä",
        ),
        (
            "SELECT * FROM X WHERE a = 'ä' ;",
            "at character 31: expected a name",
        ),
        (
            "SELECT * FROM X WHERE 1 = 1",
            "at character 27: expected a column on one side",
        ),
        (
            "SELECT * FROM X WHERE a < NULL",
            "at character 27: expected a value that has an order",
        ),
        (
            "SELECT * FROM X WHERE a LIKE b",
            "at character 30: expected a pattern in quotes, found b",
        ),
        (
            "SELECT * FROM X WHERE a IS 1",
            "at character 28: expected NULL or NOT NULL",
        ),
        (
            "SELECT * FROM X WHERE a = 1x",
            "at character 27: expected a number",
        ),
        (
            "SELECT * FROM X WHERE a = 99999999999999999999",
            "expected a number that 64 bits can hold",
        ),
        (
            "SELECT * FROM X WHERE a = 1e999",
            "expected a number that 64 bits can hold",
        ),
        (
            "SELECT * FROM X WHERE a. = 1",
            "at character 26: expected the name of a property, found =",
        ),
        (
            "SELECT * FROM X WITHIN soon",
            "at character 24: expected a number of seconds",
        ),
        (
            "SELECT * FROM X WITHIN -1",
            "at character 24: expected a number of seconds",
        ),
        ("SELECT * FROM X WITHIN 1 GROUP WITHIN 5", "is not supported here"),
        ("SELECT * FROM X ORDER BY a", "is not supported here"),
        ("ASSOCIATORS {X}", "at character 13: expected OF"),
        (
            "ASSOCIATORS OF X",
            "at character 16: expected the path of an instance in braces",
        ),
        ("ASSOCIATORS OF {X", "at character 16: expected a closing brace"),
        ("ASSOCIATORS OF {}", "at character 16: the path in braces is none"),
        ("ASSOCIATORS OF {X.a=\"1\"} WHERE", "expected AssocClass"),
        (
            "ASSOCIATORS OF {X.a=\"1\"} WHERE Role = a Role = b",
            "expected AssocClass",
        ),
        (
            "ASSOCIATORS OF {X.a=\"1\"} WHERE ClassDefsOnly",
            "asking for classes is not supported here",
        ),
        (
            "ASSOCIATORS OF {X.a=\"1\"} WHERE KeysOnly",
            "KEYSONLY is not supported here",
        ),
        ("ASSOCIATORS OF {X.a=\"1\"} WHERE Role 'a'", "expected ="),
        (
            "REFERENCES OF {X.a=\"1\"} WHERE AssocClass = Y",
            "expected ResultClass or Role",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn length_and_depth_are_bounded() {
    let nested = |n: usize| format!("SELECT * FROM X WHERE {}a = 1{}", "(".repeat(n), ")".repeat(n));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    let error = parse(&nested(MAX_DEPTH + 1)).unwrap_err().to_string();
    assert!(error.contains("nested deeper than 64"), "{error}");
    assert!(parse(&format!("SELECT * FROM X WHERE {} a = 1", "NOT ".repeat(3000))).is_err());
    let long = format!("SELECT * FROM X WHERE a = '{}'", "x".repeat(MAX_LENGTH));
    assert!(
        parse(&long)
            .unwrap_err()
            .to_string()
            .contains("longer than 16384 bytes")
    );
    // As deep as can be read is not deeper once it is printed.
    let not = "NOT ".repeat(MAX_DEPTH);
    for text in [
        format!("SELECT * FROM X WHERE b = -0 AND {not}a IS NOT NULL OR c = 1"),
        nested(MAX_DEPTH).replace("a = 1", "a = 1 AND b = 2 OR c = 3"),
    ] {
        let query = parse(&text).unwrap();
        assert_eq!(parse(&query.to_string()), Ok(query));
    }
    // Many terms beside each other are no depth.
    let many = format!("SELECT * FROM X WHERE a = 1{}", " AND a=1".repeat(1500));
    assert!(parse(&many).is_ok());
}

fn name() -> impl Strategy<Value = String> {
    // Reserved words cannot be names.
    "[A-Za-z_][A-Za-z0-9_]{2,11}_".prop_map(|s| s)
}

fn column() -> impl Strategy<Value = Column> {
    proptest::collection::vec(name(), 1..3).prop_map(|names| Column { names })
}

fn literal() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::Text),
        any::<u64>().prop_map(Value::Unsigned),
        (i64::MIN..0).prop_map(Value::Signed),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Value::Real),
        any::<bool>().prop_map(Value::Boolean),
    ]
}

fn predicate() -> impl Strategy<Value = Condition> {
    let operator = prop_oneof![
        Just(Operator::Equal),
        Just(Operator::NotEqual),
        Just(Operator::Less),
        Just(Operator::LessOrEqual),
        Just(Operator::Greater),
        Just(Operator::GreaterOrEqual),
    ];
    let right = prop_oneof![
        literal().prop_map(Operand::Literal),
        column().prop_map(Operand::Column)
    ];
    prop_oneof![
        (column(), operator, right, any::<bool>()).prop_map(|(column, operator, right, swap)| {
            let left = Operand::Column(column);
            let (left, right) = if swap { (right, left) } else { (left, right) };
            Condition::Compare {
                left,
                operator,
                right,
            }
        }),
        (column(), any::<String>()).prop_map(|(column, text)| Condition::Like {
            column,
            pattern: Pattern::new(&text),
        }),
        column().prop_map(Condition::IsNull),
        (column(), name()).prop_map(|(column, class)| Condition::Isa { column, class }),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    predicate().prop_recursive(4, 24, 4, |inner| {
        let several = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            several.clone().prop_map(Condition::All),
            several.prop_map(Condition::Any),
            inner.prop_map(|c| Condition::Not(Box::new(c))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_means_the_same(
        class in name(),
        columns in proptest::collection::vec(column(), 0..4),
        condition in proptest::option::of(condition()),
        within in proptest::option::of(0_u64..1_000_000),
    ) {
        let query = Query::Select(Select {
            class,
            columns: if columns.is_empty() { Columns::All } else { Columns::Named(columns) },
            condition,
            within: within.map(std::time::Duration::from_millis),
        });
        let text = query.to_string();
        prop_assume!(text.len() <= MAX_LENGTH);
        prop_assert_eq!(parse(&text), Ok(query), "{}", text);
    }

    #[test]
    fn arbitrary_text_does_no_harm(text in "\\PC*") {
        if let Ok(query) = parse(&text) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query));
        }
    }

    #[test]
    fn arbitrary_words_do_no_harm(
        words in proptest::collection::vec(
            prop::sample::select(vec![
                "SELECT", "*", "FROM", "WHERE", "a", "Msvm_ConcreteJob", "=", "<>", "<", "(", ")", "AND", "OR", "NOT",
                "IS", "NULL", "LIKE", "'x%'", "\"y\\\\\"", "1", "-2.5e3", "TRUE", "ISA", ".", ",", "ASSOCIATORS", "OF",
                "{X.a=\"1\"}", "ResultClass", "WITHIN", "__PATH",
            ]),
            0..20,
        )
    ) {
        if let Ok(query) = parse(&words.join(" ")) {
            prop_assert_eq!(parse(&query.to_string()), Ok(query.clone()));
            if let Query::Select(select) = query {
                let _ = select.check(v2());
                let _ = select.selects(v2(), &job(), &system());
            }
        }
    }
}
