use super::*;

#[test]
fn a_secret_wakes_the_graphtokens_of_other_namespaces_until_they_are_gone() {
    let state = State::default();
    let shared = Key::new("clients", "app-cert");
    let [here, there] = ["one", "two"].map(|namespace| Key::new(namespace, "mail"));
    for graphtoken in [&here, &there] {
        let memory = state.take(graphtoken);
        state.refer(graphtoken, vec![shared.clone()]);
        assert!(state.put(graphtoken, memory));
    }
    assert_eq!(BTreeSet::from_iter(state.referrers(&shared)), BTreeSet::from([here.clone(), there.clone()]));
    assert_eq!(state.referrers(&Key::new("one", "app-cert")), []);
    state.forget(&here);
    assert_eq!(state.referrers(&shared), std::slice::from_ref(&there));
    state.refer(&there, Vec::new());
    assert_eq!(state.referrers(&shared), []);
    assert!(lock(&state.referrers).is_empty());
}

#[test]
fn what_is_noted_of_a_graphtoken_after_it_was_forgotten_is_not_kept() {
    let (state, mail) = (State::default(), Key::new("ns", "mail"));
    let end = End { secret: Key::new("ns", "app-cert"), what: "certificate", at: Timestamp::UNIX_EPOCH };
    let memory = state.take(&mail);
    state.note_end(&mail, Some(end.clone()));
    assert_eq!(state.ends.all().len(), 1);
    state.forget(&mail);
    state.note_end(&mail, Some(end));
    state.put(&mail, memory);
    assert!(state.ends.all().is_empty());
}

#[test]
fn a_secret_wakes_the_graphtoken_that_it_is_named_after() {
    let (state, mail) = (State::default(), Key::new("ns", "mail"));
    let memory = state.take(&mail);
    state.put(&mail, memory);
    for name in ["mail", "mail-graphtoken-credential", "mail-graphtoken-login"] {
        assert_eq!(state.referrers(&Key::new("ns", name)), std::slice::from_ref(&mail), "{name}");
        assert_eq!(state.referrers(&Key::new("other", name)), [], "{name}");
    }
    assert_eq!(state.referrers(&Key::new("ns", "mail-other")), []);
}

#[test]
fn who_starts_from_one_seed_is_told_of_the_others_as_long_as_they_do() {
    let (state, seed) = (State::default(), Key::new("ns", "seed"));
    let [one, two, other] = ["one", "two", "other"].map(|name| Key::new("ns", name));
    for graphtoken in [&one, &two, &other] {
        let memory = state.take(graphtoken);
        state.refer(graphtoken, vec![seed.clone()]);
        state.put(graphtoken, memory);
    }
    assert_eq!(state.share_seed(&seed, &one), Vec::<String>::new(), "that others refer to it is not enough");
    assert_eq!(state.share_seed(&seed, &two), ["one"]);
    assert_eq!(state.share_seed(&seed, &one), ["two"]);
    state.forget(&two);
    assert_eq!(state.share_seed(&seed, &one), Vec::<String>::new());
}

#[test]
fn another_graphtoken_of_the_same_name_starts_afresh() {
    let (state, mail, seed) = (State::default(), Key::new("ns", "mail"), Key::new("ns", "seed"));
    let mut memory = state.of(&mail, state.take(&mail), "one");
    memory.written = Some("attempt".to_owned());
    state.refer(&mail, vec![seed.clone()]);
    state.put(&mail, memory);
    let memory = state.of(&mail, state.take(&mail), "one");
    assert!(memory.written.is_some());
    state.put(&mail, memory);
    let memory = state.of(&mail, state.take(&mail), "two");
    assert!(memory.written.is_none());
    state.put(&mail, memory);
    assert_eq!(state.referrers(&seed), []);
}

#[test]
fn a_graphtoken_that_is_forgotten_during_a_reconcile_leaves_nothing() {
    let (state, mail) = (State::default(), Key::new("ns", "mail"));
    let memory = state.take(&mail);
    state.forget(&mail);
    state.refer(&mail, vec![Key::new("ns", "seed")]);
    assert!(!state.put(&mail, memory));
    assert!(lock(&state.entries).is_empty() && lock(&state.referrers).is_empty());
}

#[test]
fn what_was_read_of_a_secret_goes_with_the_last_that_refers_to_it() {
    let (state, secret) = (State::default(), Key::new("clients", "app"));
    let what_for = (secret.clone(), "key".to_owned());
    let held = || Ok(Held::Secret("s3cret".into()));
    state.keep_proof(what_for.clone(), &Meta::default(), held());
    assert!(state.proof(&what_for, &Meta::default()).is_none(), "nobody refers to it");
    let all: Vec<Key> = (0..100).map(|n| Key::new("ns", &format!("app-{n}"))).collect();
    for graphtoken in &all {
        let memory = state.take(graphtoken);
        state.refer(graphtoken, vec![secret.clone()]);
        state.put(graphtoken, memory);
    }
    state.keep_proof(what_for.clone(), &Meta::default(), held());
    for graphtoken in &all {
        assert!(state.proof(&what_for, &Meta::default()).is_some());
        state.forget(graphtoken);
    }
    state.refer(&all[0], vec![secret.clone()]);
    state.keep_proof(what_for, &Meta::default(), held());
    assert!(lock(&state.proofs).is_empty() && lock(&state.referrers).is_empty());
}
