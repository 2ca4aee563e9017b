//! Sockets: who may open them, who receives what, and whose an error is.

use super::*;

#[test]
fn a_second_daemon_and_another_program_are_refused_by_name() {
    let config = UnderlayConfig::new(local(10), PORT);
    let first = open(config);
    let error = UnderlaySockets::open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Lock(_)), "{error}");
    assert!(error.to_string().contains("127.83.0.10:4789"), "{error}");
    drop(first);
    let squatter = UdpSocket::bind((local(10), PORT)).unwrap();
    let error = UnderlaySockets::open(&config).unwrap_err();
    assert!(matches!(error, OpenError::PortTaken(_)), "{error}");
    assert!(error.to_string().contains("UDP port 4789 of 127.83.0.10"), "{error}");
    drop(squatter);
    let squatter = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    squatter.set_reuse_port(true).unwrap();
    squatter.bind(&SocketAddr::new(local(10), PORT).into()).unwrap();
    let two = UnderlayConfig { workers: NonZeroUsize::new(2).unwrap(), ..config };
    let error = UnderlaySockets::open(&two).unwrap_err();
    assert!(matches!(error, OpenError::PortTaken(_)), "a group is not joined: {error}");
    drop(squatter);
    open(two);
    let foreign = UnderlayConfig::new("192.0.2.200".parse().unwrap(), PORT);
    assert!(matches!(UnderlaySockets::open(&foreign), Err(OpenError::AddressNotHere(_))));
    let any = UnderlayConfig::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
    assert!(matches!(UnderlaySockets::open(&any), Err(OpenError::AddressUnfit(_))));
}

#[test]
fn each_bucket_has_a_source_port_in_its_own_part_of_the_range() {
    let taken = UdpSocket::bind((local(11), 49_152)).unwrap();
    let sockets = open(UnderlayConfig::new(local(11), PORT));
    for (bucket, port) in sockets.source_ports().iter().enumerate() {
        let first = 49_152 + bucket as u32 * 1024;
        assert!((first..first + 1024).contains(&u32::from(*port)), "{bucket}: {port}");
    }
    assert_eq!(sockets.source_ports()[0], 49_153);
    drop(taken);
    let mut sender = Sender::new(&sockets);
    let peer = plain_receiver(SocketAddr::new(local(111), PORT));
    for bucket in 0..BUCKETS {
        sender.push_plain(&[to(peer.local_addr().unwrap())], bucket, &frame(60, bucket as u8));
    }
    sender.flush();
    for _ in 0..BUCKETS {
        let (bytes, from) = receive_one(&peer);
        assert_eq!(from.port(), sockets.source_ports()[usize::from(bytes[8 + 14])]);
    }
    // What is sent to a source port is not taken in.
    peer.send_to(&[1; 100], (local(11), sockets.source_ports()[4])).unwrap();
    let fd = sockets.senders().nth(4).unwrap();
    let mut byte = [std::mem::MaybeUninit::uninit(); 1];
    assert!(socket2::SockRef::from(&fd).recv(&mut byte).is_err());
}

#[test]
fn a_worker_takes_what_has_its_bucket_in_as_many_lanes_as_there_are() {
    for (address, port) in [(local(12), PORT), (IpAddr::V6(Ipv6Addr::LOCALHOST), 14_012)] {
        for workers in [1, 2, 3, 8, BUCKETS] {
            let count = NonZeroUsize::new(workers).unwrap();
            let config = UnderlayConfig { workers: count, ..UnderlayConfig::new(address, port) };
            let sockets = open(config);
            let mut sender = Sender::new(&sockets);
            for round in 0..4 {
                for bucket in 0..BUCKETS {
                    let frame = frame(60 + round, bucket as u8);
                    sender.push_plain(&[to(sockets.local())], bucket, &frame);
                }
                sender.flush();
            }
            for worker in 0..workers {
                let lanes = sockets.receive(worker).iter().map(|lane| {
                    let taken: Vec<u8> =
                        receive_from(lane).iter().map(|message| message.0[8 + 14]).collect();
                    taken
                });
                let lanes: Vec<_> = lanes.filter(|taken| !taken.is_empty()).collect();
                let own = (0..BUCKETS as u8).filter(|it| usize::from(*it) % workers == worker);
                let mut all = lanes.concat();
                all.sort_unstable();
                assert_eq!(all, own.clone().flat_map(|it| [it; 4]).collect::<Vec<_>>(), "{worker}");
                assert_eq!(lanes.len(), own.count().min(LANES), "{worker} of {workers}: {lanes:?}");
                let is_spread =
                    |it: u8| lanes.iter().filter(|taken| taken.contains(&it)).count() > 1;
                assert!(!all.into_iter().any(is_spread), "a bucket has two lanes: {lanes:?}");
            }
            assert!(sockets.receive(workers).is_empty());
        }
    }
}

#[test]
fn workers_share_what_others_send_and_more_workers_than_buckets_too() {
    const SENDERS: usize = 240;
    for workers in [2, BUCKETS + 1] {
        let count = NonZeroUsize::new(workers).unwrap();
        let sockets =
            open(UnderlayConfig { workers: count, ..UnderlayConfig::new(local(21), PORT) });
        let senders: Vec<UdpSocket> =
            (0..SENDERS).map(|_| UdpSocket::bind((local(121), 0)).unwrap()).collect();
        for round in 0..2 {
            for (index, sender) in (0..).zip(&senders) {
                sender.send_to(&[round, index, 3], sockets.local()).unwrap();
            }
        }
        let taken: Vec<Vec<u8>> = (0..workers)
            .map(|worker| receive_all(&sockets, worker).iter().map(|it| it.0[1]).collect())
            .collect();
        assert_eq!(taken.iter().map(Vec::len).sum::<usize>(), 2 * SENDERS, "{workers}");
        for taken in taken {
            let of = |it: &u8| taken.iter().filter(|other| *other == it).count();
            assert!(taken.iter().all(|it| of(it) == 2), "a sender has two workers");
            assert!(!taken.is_empty(), "a worker of {workers} has none");
        }
    }
}

#[test]
fn a_flow_that_fills_its_lane_costs_the_others_nothing() {
    // Few enough to fit into one lane with all that share it.
    const OTHERS: u8 = 8;
    let receive_buffer = 64 << 10;
    let sockets = open(UnderlayConfig { receive_buffer, ..UnderlayConfig::new(local(20), PORT) });
    let lanes = sockets.receive(0);
    assert_eq!(lanes.len(), LANES);
    let mut sender = Sender::new(&sockets);
    let mut send = |bucket: usize, len| {
        sender.push_plain(&[to(sockets.local())], bucket, &frame(len, bucket as u8));
        sender.flush();
    };
    (0..BUCKETS).for_each(|bucket| send(bucket, 60));
    let lane_of: Vec<usize> = {
        let mut of = vec![LANES; BUCKETS];
        for (lane, socket) in lanes.iter().enumerate() {
            receive_from(socket)
                .iter()
                .for_each(|message| of[usize::from(message.0[8 + 14])] = lane);
        }
        of
    };
    assert!(lane_of.iter().all(|lane| *lane < LANES), "something is lost: {lane_of:?}");
    let loud = lane_of[0];
    let others: Vec<usize> = (0..BUCKETS).filter(|bucket| lane_of[*bucket] != loud).collect();
    assert!(!others.is_empty(), "all flows share one lane");
    for _ in 0..400 {
        send(0, 1400);
    }
    for _ in 0..OTHERS {
        others.iter().for_each(|bucket| send(*bucket, 60));
    }
    let lost: Vec<u32> = lanes.iter().map(ReceiveSocket::drops).collect();
    assert!(lost[loud] > 0, "nothing overflowed");
    assert_eq!(sockets.drops(), u64::from(lost[loud]), "{lost:?}");
    let kept = receive_from(&lanes[loud]);
    assert_eq!(
        kept.iter().filter(|(bytes, ..)| bytes[8 + 14] == 0).count() as u32,
        400 - lost[loud]
    );
    let quiet = lanes.iter().enumerate().filter(|(lane, _)| *lane != loud);
    let came: usize = quiet.map(|(_, socket)| receive_from(socket).len()).sum();
    assert_eq!(came, others.len() * usize::from(OTHERS));
}

#[test]
fn an_error_belongs_to_the_peer_it_quotes_and_costs_the_others_nothing() {
    for address in [local(13), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_013));
        let healthy = plain_receiver(SocketAddr::new(address, 14_113));
        let dead = SocketAddr::new(address, 14_213);
        let mut sender = Sender::new(&sockets);
        for i in 0..50 {
            sender.push_plain(&[to(dead), to(healthy.local_addr().unwrap())], 2, &frame(60, i));
            let outcomes = sender.flush();
            let good = outcomes.iter().find(|outcome| outcome.to != dead).unwrap();
            assert_eq!(good.result, Ok(()));
        }
        for i in 0..50 {
            assert!(receive_one(&healthy).0 == encapsulated(&frame(60, i)));
        }
        assert!(sender.batch.retries() > 0, "the dead peer's errors met the healthy one's sends");
        let mut errors = Vec::new();
        let fd = sockets.senders().nth(2).unwrap();
        while errqueue::drain(fd, |error| errors.push(error)) > 0 {}
        assert!(!errors.is_empty());
        for error in errors {
            assert_eq!(
                (error.peer, error.kind, error.local),
                (dead, PeerErrorKind::Refused, false)
            );
        }
    }
}

#[test]
fn a_peer_that_cannot_be_sent_to_does_not_stop_the_rest_of_a_flood() {
    let sockets = open(UnderlayConfig::new(local(14), PORT));
    let good: Vec<_> =
        (0..3).map(|i| plain_receiver(SocketAddr::new(local(114), 5000 + i))).collect();
    let mut all: Vec<_> = good.iter().map(|socket| to(socket.local_addr().unwrap())).collect();
    // Another family; a broadcast address, for which no right was asked.
    let bad = ["[2001:db8::1]:4789", "255.255.255.255:4789"].map(|text| text.parse().unwrap());
    all.insert(0, to(bad[0]));
    all.insert(2, to(bad[1]));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(4000, 1000);
    (0..5).for_each(|i| sender.push_plain(&all, 0, &frame(80, i)));
    stream.push(&mut sender, &all, 0);
    let outcomes = sender.flush();
    for to in &all {
        let of_peer: Vec<_> = outcomes.iter().filter(|outcome| outcome.to == to.address).collect();
        let units: u32 = of_peer.iter().map(|outcome| outcome.units).sum();
        let frames: u32 = of_peer.iter().map(|outcome| outcome.frames).sum();
        assert_eq!((units, frames), (6, 9), "{of_peer:?}");
        let failed = bad.contains(&to.address);
        assert!(of_peer.iter().all(|outcome| outcome.result.is_err() == failed), "{of_peer:?}");
    }
    let denied = outcomes.iter().find(|outcome| outcome.to == bad[1]).unwrap();
    assert_eq!(denied.result, Err(SendDrop::Denied));
    assert!(sockets.offloads().revoked().is_empty());
    for socket in &good {
        for i in 0..5 {
            assert!(receive_one(socket).0 == encapsulated(&frame(80, i)));
        }
        for segment in &stream.segments {
            assert!(receive_one(socket).0 == encapsulated(segment));
        }
        nothing_left(socket);
    }
}

#[test]
fn a_frame_reaches_more_peers_than_can_wait_at_once() {
    let sockets = open(UnderlayConfig::new(local(15), PORT));
    let peers: Vec<_> =
        (0..300).map(|i| plain_receiver(SocketAddr::new(local(115), 6000 + i))).collect();
    let all: Vec<_> = peers.iter().map(|socket| to(socket.local_addr().unwrap())).collect();
    let mut sender = Sender::new(&sockets);
    (0..3).for_each(|i| sender.push_plain(&all, 4, &frame(700, i)));
    let outcomes = sender.flush();
    assert_eq!(outcomes.iter().map(|outcome| outcome.frames).sum::<u32>(), 900);
    for socket in &peers {
        (0..3).for_each(|i| assert!(receive_one(socket).0 == encapsulated(&frame(700, i))));
        nothing_left(socket);
    }
}

#[test]
fn more_than_the_arena_holds_is_sent_on_the_way() {
    let sockets = open(UnderlayConfig::new(local(16), PORT));
    let here = [to(sockets.local())];
    let mut sender = Sender::new(&sockets);
    for round in 0..20 {
        sender.push_plain(&here, round, &frame(9000, round as u8));
    }
    let on_the_way = sender.outcomes.len();
    assert!(on_the_way > 0, "20 frames of 9000 bytes cannot all wait");
    assert_eq!(sender.flush().len(), 20);
    let mut seen: Vec<_> = receive_all(&sockets, 0).into_iter().map(|part| part.0).collect();
    seen.sort();
    let expected: Vec<_> = (0..20).map(|i| encapsulated(&frame(9000, i))).collect();
    assert!(seen == expected);
    sender.push_plain(&here, 0, &frame(65_500, 1));
    assert_eq!(sender.flush()[0].result, Err(SendDrop::TooBig));
}

#[test]
fn dscp_and_ecn_arrive_as_they_were_sent() {
    for address in [local(17), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_017));
        let mut sender = Sender::new(&sockets);
        for tos in [0, 1, 2, 3, 0xb8, 0xbb] {
            let bytes = frame(100, tos);
            let plain = encap::Contiguous::new(&bytes, Offload::default());
            sender.push(&[to(sockets.local())], 1, tos, plain.frame());
            sender.push(&[to(sockets.local())], 1, tos, plain.frame());
        }
        sender.flush();
        let messages = receive_all(&sockets, 0);
        let tos: Vec<_> = messages.iter().map(|message| message.2).collect();
        assert_eq!(tos, [0, 1, 2, 3, 0xb8, 0xbb]);
        assert!(messages.iter().all(|(bytes, _, tos)| bytes[8 + 14] == *tos));
        assert!(messages.iter().all(|message| message.1 == Some(108)));
    }
}

#[test]
fn what_a_full_receive_buffer_costs_is_told() {
    let sockets = open(UnderlayConfig::new(local(18), PORT));
    let mut sender = Sender::new(&sockets);
    let here = [to(sockets.local())];
    let buffer = sockets.offloads().receive_buffer;
    assert!(buffer > 0 && sockets.offloads().send_buffer > 0);
    let count = (2 * buffer / 60_000 + 50) as u32;
    let mut sent = 0;
    for _ in 0..count {
        sender.push_plain(&here, 0, &frame(60_000, 1));
        sent += sender.flush().iter().filter(|outcome| outcome.result.is_ok()).count();
    }
    let messages = receive_all(&sockets, 0);
    assert!(messages.len() < sent, "the buffer of {buffer} bytes did not fill");
    let lost = u64::try_from(sent - messages.len()).unwrap();
    assert_eq!(sockets.drops(), lost);
    // What comes afterwards is received as ever, and costs nothing more.
    sender.push_plain(&here, 0, &frame(100, 1));
    sender.flush();
    assert_eq!(receive_all(&sockets, 0).len(), 1);
    assert_eq!(sockets.drops(), lost);
}

/// Runs `test` on a thread in a network namespace of its own, where loopback has an MTU of 1500
/// and multicast. Without the right to make one the test says so and is skipped.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED: no network namespace: {error}");
            return;
        }
        let up = ["link", "set", "lo", "up", "multicast", "on", "mtu", "1500"];
        let status = std::process::Command::new("ip").args(up).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: `ip` cannot set loopback up");
            return;
        }
        test();
    });
    thread.join().unwrap();
}

#[test]
fn a_path_shorter_than_believed_is_no_lost_offload() {
    in_namespace(|| {
        let sockets = open(UnderlayConfig::new(Ipv4Addr::LOCALHOST.into(), PORT));
        assert_eq!(sockets.interface().mtu, 1500);
        let mut sender = Sender::new(&sockets);
        let here = [to(sockets.local())];
        (0..3).for_each(|i| sender.push_plain(&here, 0, &frame(2000, i)));
        sender.push_plain(&here, 0, &frame(4000, 3));
        let stream = Stream::new(10_000, 1460);
        stream.push(&mut sender, &here, 0);
        (0..3).for_each(|i| sender.push_plain(&here, 0, &frame(1000, i)));
        let outcomes = sender.flush();
        let results: Vec<_> =
            outcomes.iter().map(|outcome| (outcome.frames, outcome.result)).collect();
        let too_big = Err(SendDrop::TooBig);
        assert_eq!(results, [(3, too_big), (1, too_big), (7, too_big), (3, Ok(()))]);
        assert!(sockets.offloads().revoked().is_empty());
        let mut told = Vec::new();
        errqueue::drain(sockets.senders().next().unwrap(), |error| told.push(error));
        assert!(!told.is_empty());
        for error in told {
            assert_eq!((error.peer.ip(), error.local), (sockets.local().ip(), true));
            assert_eq!(error.kind, PeerErrorKind::MessageTooBig { mtu: 1500 });
        }
        let messages = receive_all(&sockets, 0);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].1, Some(1008));
        // With the path's true MTU the superframe is cut to fit.
        stream.push(&mut sender, &[Destination { path_mtu: 1500, ..here[0] }], 0);
        assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok()));
        let bytes: Vec<u8> = receive_all(&sockets, 0).into_iter().flat_map(|part| part.0).collect();
        let expected = Stream::new(10_000, 1410).segments;
        assert!(bytes == expected.iter().flat_map(|part| encapsulated(part)).collect::<Vec<_>>());
    });
}

#[test]
fn a_multicast_group_is_received_by_the_one_socket_that_joined() {
    in_namespace(|| {
        let workers = NonZeroUsize::new(2).unwrap();
        let config = UnderlayConfig::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let sockets = open(UnderlayConfig { workers, ..config });
        let group: IpAddr = "239.1.1.100".parse().unwrap();
        assert!(matches!(sockets.join(local(1)), Err(OpenError::NoGroup(_))));
        assert!(matches!(sockets.join("ff02::1".parse().unwrap()), Err(OpenError::NoGroup(_))));
        let joined = sockets.join(group).unwrap();
        assert_eq!(joined.local(), SocketAddr::new(group, PORT));
        let mut sender = Sender::new(&sockets);
        (0..5).for_each(|i| sender.push_plain(&[to(joined.local())], i, &frame(100, i as u8)));
        assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok()));
        let mut receiver = Receiver::new();
        let batch = receiver.receive(&joined, sys::RECEIVE_BATCH).unwrap();
        assert_eq!(batch.len(), 5);
        assert_eq!(receive_all(&sockets, 0).len() + receive_all(&sockets, 1).len(), 0);
    });
}
