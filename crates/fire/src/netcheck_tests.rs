use super::*;

const V4: SocketId = SocketId(0);
const V6: SocketId = SocketId(1);

#[test]
fn all_transports_are_tried_at_once_and_told_with_what_each_saw() {
    let mut trial = trial(&["oak=192.0.2.1:3478"], &[V4]);
    let outputs = drain(&mut trial);
    assert_eq!(outputs.len(), 3, "{outputs:?}");
    answer(&mut trial, at(4), &outputs[0], "198.51.100.7:4000");
    let stream = opened(&outputs[1]);
    trial.handle(at(10), Input::StreamOpened { stream });
    let asked = drain(&mut trial);
    answer(&mut trial, at(16), &asked[0], "198.51.100.7:5000");
    assert_eq!(drain(&mut trial), [Output::CloseStream { stream }]);
    trial.handle(
        at(20),
        Input::StreamClosed { stream: opened(&outputs[2]), reason: "192.0.2.1:5349 refuses connections: nothing listens there" },
    );
    assert!(trial.is_done());
    let found = trial.finish(|_| false);
    let shown =
        |outcome: &Outcome| (outcome.transport, outcome.rtt_ms, outcome.mapped.map(|seen| seen.to_string()), outcome.problem.clone());
    assert_eq!(
        found.servers[0].by.iter().map(shown).collect::<Vec<_>>(),
        [
            (Transport::Udp, Some(4.0), Some("198.51.100.7:4000".into()), None),
            (Transport::Tcp, Some(6.0), Some("198.51.100.7:5000".into()), None),
            (Transport::Tls, None, None, Some("192.0.2.1:5349 refuses connections: nothing listens there".into())),
        ]
    );
    assert_eq!(found.ipv4.unwrap().nat, Nat::Unknown, "one server cannot tell");
    assert_eq!(found.ipv6, None);
}

#[test]
fn what_does_not_answer_is_given_up_after_three_seconds_and_asked_three_times_by_udp() {
    let mut trial = trial(&["oak=192.0.2.1:3478"], &[V4]);
    let streams: Vec<StreamId> = drain(&mut trial)[1..].iter().map(opened).collect();
    trial.handle(at(1), Input::StreamOpened { stream: streams[0] });
    drain(&mut trial);
    let mut sent = Vec::new();
    while let Some(wake) = trial.next_wake() {
        trial.on_wake(wake);
        sent.extend(drain(&mut trial).iter().map(|output| (wake.as_micros() / 1_000, matches!(output, Output::Send { .. }))));
    }
    assert_eq!(sent, [(500, true), (1_500, true), (3_000, false), (3_000, false)], "and both streams are closed");
    let found = trial.finish(|_| false);
    let problems: Vec<&str> = found.servers[0].by.iter().map(|outcome| outcome.problem.as_deref().unwrap()).collect();
    assert_eq!(problems, ["no answer within 3 s", "it takes the connection, and does not answer within 3 s", "no connection within 3 s"]);
}

#[test]
fn a_late_answer_to_a_question_that_was_asked_again_has_its_own_round_trip() {
    let mut trial = trial(&["oak=turn:192.0.2.1?transport=udp"], &[V4]);
    drain(&mut trial);
    trial.on_wake(at(500));
    let again = drain(&mut trial);
    answer(&mut trial, at(530), &again[0], "198.51.100.7:4000");
    assert_eq!(trial.finish(|_| false).servers[0].by[0].rtt_ms, Some(30.0));
}

#[test]
fn what_several_servers_see_tells_what_the_nat_does() {
    let nat = |seen: [&str; 2], own: &str| {
        let mut trial = trial(&["oak=turn:192.0.2.1?transport=udp", "elm=turn:192.0.2.2?transport=udp"], &[V4]);
        for (question, seen) in drain(&mut trial).iter().zip(seen) {
            answer(&mut trial, at(5), question, seen);
        }
        let own: IpAddr = own.parse().unwrap();
        trial.finish(|ip| ip == own).ipv4.unwrap().nat
    };
    assert_eq!(nat(["198.51.100.7:4000", "198.51.100.7:4000"], "10.0.0.1"), Nat::EndpointIndependent);
    assert_eq!(nat(["198.51.100.7:4000", "198.51.100.7:4001"], "10.0.0.1"), Nat::EndpointDependent);
    assert_eq!(nat(["198.51.100.7:4000", "198.51.100.8:4000"], "10.0.0.1"), Nat::EndpointDependent);
    assert_eq!(nat(["10.0.0.1:4000", "10.0.0.1:4000"], "10.0.0.1"), Nat::None);
    assert_eq!(nat(["10.0.0.1:4000", "198.51.100.7:9"], "10.0.0.1"), Nat::Unknown, "one inside and one outside say nothing of each other");
}

#[test]
fn names_are_looked_up_once_and_one_that_is_not_found_is_told() {
    let mut trial = trial(&["oak=turn.example:3478", "elm=nowhere.example:3478"], &[V4, V6]);
    let outputs = drain(&mut trial);
    let slot = |host: &str| {
        let of = |output: &Output| match output {
            Output::Resolve { server, host: asked, .. } if asked == host => Some(*server),
            _ => None,
        };
        outputs.iter().find_map(of).unwrap()
    };
    assert_eq!(outputs.len(), 2, "{outputs:?}");
    let addresses = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "[2001:db8::1]:1"].map(|it| it.parse().unwrap());
    trial.handle(at(5), Input::Resolved { server: slot("turn.example"), addresses: &addresses });
    let remotes: Vec<SocketAddr> = trial.tries.iter().map(|it| it.remote).collect();
    assert_eq!(remotes[..2], ["192.0.2.1:3478".parse().unwrap(), "[2001:db8::1]:3478".parse().unwrap()], "one of each family");
    assert_eq!(remotes.len(), 2 * 3);
    trial.handle(at(6), Input::Resolved { server: slot("nowhere.example"), addresses: &[] });
    assert_eq!(trial.finish(|_| false).servers[1].by[0].problem.as_deref(), Some("the name nowhere.example is not found within 2 s"));
}

#[test]
fn what_others_told_of_is_not_knocked_at_on_our_own_host_and_a_family_that_is_missing_is_told() {
    let server: Server = "oak=127.0.0.1:3478".parse().unwrap();
    let hearsay = BTreeSet::from(["127.0.0.1".to_owned()]);
    let targets = Targets { servers: vec![(server, hearsay)], in_cluster: false };
    let mut trial = Trial::new(targets, [V4], [7; 32], at(0));
    assert!(drain(&mut trial).is_empty() && trial.is_done());
    let mut trial = self::trial(&["oak=[2001:db8::1]:3478"], &[V4]);
    assert!(drain(&mut trial).is_empty() && trial.is_done());
    assert_eq!(trial.finish(|_| false).servers[0].by[2].problem.as_deref(), Some("this host has no IPv6"));
}

#[test]
fn hostile_answers_and_long_lists_are_bounded() {
    let many: Vec<String> = (0..40).map(|n| format!("s{n}=192.0.2.{n}:3478")).collect();
    let mut trial = trial(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[V4]);
    assert_eq!(drain(&mut trial).len(), 3 * MAX_SERVERS);
    assert_eq!(trial.finish(|_| false).left_out, 40 - MAX_SERVERS);
    let mut trial = self::trial(&["oak=turn:192.0.2.1?transport=udp"], &[V4]);
    let question = drain(&mut trial).remove(0);
    let Output::Send { via, datagram } = &question else { panic!("{question:?}") };
    // From elsewhere, of another transaction, nonsense: as if nothing had come.
    let elsewhere = Via::Udp { socket: V4, remote: "192.0.2.9:3478".parse().unwrap() };
    let id = Message::parse(datagram).unwrap().transaction();
    let success = |id| Builder::new(Class::Success, Method::BINDING, id).finish();
    for (via, message) in [(elsewhere, success(id)), (*via, success(TransactionId([9; 12]))), (*via, b"nonsense".to_vec())] {
        trial.handle(at(1), Input::Stun { via, message: &message });
        assert!(!trial.is_done());
    }
    let refusal = Builder::new(Class::Error, Method::BINDING, id).error_code(403, "Go\u{1b}[31m away").finish();
    trial.handle(at(1), Input::Stun { via: *via, message: &refusal });
    assert_eq!(trial.finish(|_| false).servers[0].by[0].problem.as_deref(), Some("it refuses (403 Go[31m away)"));
}

fn trial(servers: &[&str], sockets: &[SocketId]) -> Trial {
    let servers = servers.iter().map(|text| text.parse().unwrap()).collect();
    Trial::new(Targets::given(servers, false), sockets.iter().copied(), [7; 32], at(0))
}

fn drain(trial: &mut Trial) -> Vec<Output> {
    std::iter::from_fn(|| trial.poll_output()).collect()
}

fn opened(output: &Output) -> StreamId {
    match output {
        Output::OpenStream { stream, .. } => *stream,
        other => panic!("{other:?}"),
    }
}

/// The server answers a question.
fn answer(trial: &mut Trial, now: Time, question: &Output, seen: &str) {
    let Output::Send { via, datagram } = question else { panic!("{question:?}") };
    let question = Message::parse(datagram).unwrap();
    let answer = Builder::answer(Class::Success, &question).xor_address(Attribute::XOR_MAPPED_ADDRESS, seen.parse().unwrap());
    trial.handle(now, Input::Stun { via: *via, message: &answer.finish() });
}

fn at(millis: u64) -> Time {
    Time::from_micros(millis * 1_000)
}
