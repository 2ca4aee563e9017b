//! What leaves in one send, and how it arrives.

use super::*;

#[test]
fn equal_frames_leave_and_arrive_as_one_train() {
    for address in [local(1), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let sockets = open(UnderlayConfig::new(address, 14_001));
        assert!(sockets.offloads().udp_segment && sockets.offloads().udp_gro);
        let mut sender = Sender::new(&sockets);
        let frames: Vec<_> = (0..20).map(|i| frame(600, i)).collect();
        for bytes in &frames {
            sender.push_plain(&[to(sockets.local())], 3, bytes);
        }
        let outcomes = sender.flush();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        let sent = outcomes[0];
        assert_eq!((sent.units, sent.frames, sent.bytes), (20, 20, 12_000));
        assert_eq!((sent.to, sent.tag, sent.result), (sockets.local(), 14_001, Ok(())));
        let messages = receive_all(&sockets, 0);
        assert_eq!(sockets.drops(), 0);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].1, Some(608));
        let expected: Vec<u8> = frames.iter().flat_map(|bytes| encapsulated(bytes)).collect();
        assert_eq!(messages[0].0, expected);
    }
}

#[test]
fn a_train_is_taken_apart_into_its_frames() {
    let sockets = open(UnderlayConfig::new(local(2), PORT));
    let mut sender = Sender::new(&sockets);
    let frames: Vec<_> =
        [300, 300, 300, 60].iter().zip(1..).map(|(len, i)| frame(*len, i)).collect();
    for bytes in &frames {
        sender.push_plain(&[to(sockets.local())], 5, bytes);
    }
    sender.flush();
    let raw = UdpSocket::bind((local(2), 0)).unwrap();
    raw.send_to(&[8, 0, 0], sockets.local()).unwrap();
    raw.send_to(&[], sockets.local()).unwrap();
    let collected = decap_all(&sockets);
    let bytes: Vec<_> = collected.frames.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(bytes, frames);
    let peer = SocketAddr::new(local(2), sockets.source_ports()[5]);
    for (origin, _) in &collected.frames {
        assert_eq!(origin.peer, peer);
        assert_eq!(
            origin.header,
            vxlan::Header { vni: Vni::new(100).unwrap(), reserved_bits_set: false }
        );
    }
    let from = raw.local_addr().unwrap();
    let errors = [3, 0].map(|len| (from, DecapError::Truncated { len }));
    assert_eq!(collected.malformed, errors);
}

#[test]
fn a_run_ends_with_a_shorter_or_longer_frame_and_at_its_limits() {
    let sockets = open(UnderlayConfig::new(local(3), PORT));
    let shapes = |lens: &[usize]| {
        let mut sender = Sender::new(&sockets);
        for (len, fill) in lens.iter().zip(0..) {
            sender.push_plain(&[to(sockets.local())], 0, &frame(*len, fill));
        }
        sender.flush();
        let messages = receive_all(&sockets, 0);
        let expected: Vec<u8> =
            lens.iter().zip(0..).flat_map(|(len, fill)| encapsulated(&frame(*len, fill))).collect();
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.0.clone()).collect();
        assert!(bytes == expected, "bytes or order of {lens:?}");
        let shape = |(bytes, size, _): &Message| {
            (size.map_or(0, |size| usize::from(size) - 8), bytes.len())
        };
        messages.iter().map(shape).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&[100]), [(0, 108)]);
    assert_eq!(shapes(&[100, 100, 100, 60, 100]), [(100, 3 * 108 + 68), (0, 108)]);
    assert_eq!(shapes(&[100, 200, 200]), [(0, 108), (200, 2 * 208)]);
    assert_eq!(shapes(&[60; 66]), [(60, 64 * 68), (60, 2 * 68)]);
    assert_eq!(shapes(&[9000; 8]), [(9000, 7 * 9008), (0, 9008)]);
}

#[test]
fn flows_of_one_bucket_keep_their_order_and_trains_only_hold_one_tos() {
    let sockets = open(UnderlayConfig::new(local(4), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(3000, 1000);
    let here = [to(sockets.local())];
    sender.push_plain(&here, 7, &frame(100, 1));
    sender.push(&here, 7, 3, encap::Contiguous::new(&frame(100, 2), Offload::default()).frame());
    sender.push_plain(&here, 7, &frame(100, 3));
    stream.push(&mut sender, &here, 7);
    sender.push_plain(&here, 7, &frame(100, 4));
    sender.flush();
    let messages = receive_all(&sockets, 0);
    let first: Vec<_> = messages.iter().map(|(bytes, ..)| bytes[8 + 14]).collect();
    assert_eq!(first, [1, 2, 3, 0x45, 4]);
    let tos: Vec<_> = messages.iter().map(|message| message.2).collect();
    assert_eq!(tos, [0, 3, 0, 0, 0]);
}

#[test]
fn a_superframe_arrives_as_the_segments_of_a_naive_cut() {
    let sockets = open(UnderlayConfig::new(local(5), PORT));
    let peer = plain_receiver(SocketAddr::new(local(105), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(65_000, 1398);
    assert_eq!(stream.segments.len(), 47);
    stream.push(&mut sender, &[to(peer.local_addr().unwrap())], 9);
    let outcomes = sender.flush();
    let totals: Vec<_> =
        outcomes.iter().map(|sent| (sent.units, sent.frames, sent.result)).collect();
    assert_eq!(totals, [(1, 24, Ok(())), (0, 23, Ok(()))]);
    let on_the_wire: usize = stream.segments.iter().map(Vec::len).sum();
    assert_eq!(outcomes.iter().map(|sent| sent.bytes).sum::<u64>(), on_the_wire as u64);
    for segment in &stream.segments {
        let (bytes, from) = receive_one(&peer);
        assert!(bytes == encapsulated(segment));
        assert_eq!(from.port(), sockets.source_ports()[9]);
    }
    nothing_left(&peer);
}

#[test]
fn a_superframe_is_cut_smaller_for_a_smaller_path_and_a_frame_is_refused() {
    let sockets = open(UnderlayConfig::new(local(6), PORT));
    let peer = plain_receiver(SocketAddr::new(local(106), PORT));
    let mut sender = Sender::new(&sockets);
    let narrow = Destination { path_mtu: 1280, ..to(peer.local_addr().unwrap()) };
    Stream::new(5000, 1398).push(&mut sender, &[narrow], 0);
    sender.push_plain(&[narrow], 0, &frame(1280 - 36 + 1, 1));
    sender.push_plain(&[narrow], 0, &frame(1280 - 36, 2));
    let outcomes = sender.flush();
    let refused: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0].result, refused[0].frames), (Err(SendDrop::TooBig), 1));
    // 1280 less 20 + 8 + 8 + 14 outside and 40 inside.
    for segment in &Stream::new(5000, 1190).segments {
        assert!(receive_one(&peer).0 == encapsulated(segment));
    }
    assert!(receive_one(&peer).0 == encapsulated(&frame(1244, 2)));
    nothing_left(&peer);
}

#[test]
fn an_unfinished_checksum_is_finished_before_a_frame_leaves() {
    let sockets = open(UnderlayConfig::new(local(7), PORT));
    let peer = plain_receiver(SocketAddr::new(local(107), PORT));
    let mut sender = Sender::new(&sockets);
    let stream = Stream::new(400, 1000);
    let offload = Offload { gso: None, ..stream.offload() };
    let whole = encap::Contiguous::new(&stream.bytes, offload);
    sender.push(&[to(peer.local_addr().unwrap())], 0, 0, whole.frame());
    sender.flush();
    assert_eq!(receive_one(&peer).0, encapsulated(&stream.segments[0]));
}

#[test]
fn without_checksums_everything_goes_one_by_one() {
    for address in [local(8), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let config = UnderlayConfig { udp_checksum: false, ..UnderlayConfig::new(address, 14_008) };
        let demanded = UnderlayConfig { udp_gso: Wish::On, ..config };
        let error = UnderlaySockets::open(&demanded).unwrap_err();
        assert!(matches!(error, OpenError::OffloadMissing("udp_gso", _)), "{error}");
        let sockets = open(config);
        assert!(!sockets.offloads().udp_segment);
        let mut sender = Sender::new(&sockets);
        let stream = Stream::new(60_000, 1000);
        let here = [to(sockets.local())];
        (0..40).for_each(|i| sender.push_plain(&here, 1, &frame(90, i)));
        stream.push(&mut sender, &here, 1);
        let outcomes = sender.flush();
        let units: u32 = outcomes.iter().map(|outcome| outcome.units).sum();
        let frames: u32 = outcomes.iter().map(|outcome| outcome.frames).sum();
        assert_eq!((units, frames), (41, 100));
        assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
        let messages = receive_all(&sockets, 0);
        assert!(messages.iter().all(|message| message.1.is_none()));
        let expected = (0..40).map(|i| frame(90, i)).chain(stream.segments);
        let expected: Vec<_> = expected.map(|bytes| encapsulated(&bytes)).collect();
        assert!(messages.into_iter().map(|message| message.0).collect::<Vec<_>>() == expected);
    }
}

#[test]
fn a_revoked_peer_gets_single_datagrams_and_the_others_trains() {
    let sockets = open(UnderlayConfig::new(local(9), PORT));
    let other = open(UnderlayConfig::new(local(109), PORT));
    assert!(sockets.offloads().revoke_segment(other.local().ip()));
    let mut sender = Sender::new(&sockets);
    let both = [to(sockets.local()), to(other.local())];
    (0..10).for_each(|i| sender.push_plain(&both, 1, &frame(90, i)));
    assert!(sender.flush().iter().all(|outcome| outcome.result.is_ok() && outcome.frames == 10));
    assert_eq!(receive_all(&sockets, 0).len(), 1);
    assert_eq!(receive_all(&other, 0).len(), 10);
    sockets.offloads().restore_segment();
    (0..10).for_each(|i| sender.push_plain(&both, 1, &frame(90, i)));
    sender.flush();
    assert_eq!(receive_all(&other, 0).len(), 1);
}

#[test]
fn a_train_that_the_kernel_refuses_goes_one_by_one_and_is_not_tried_again() {
    let sockets = open(UnderlayConfig::new(local(19), PORT));
    // What a device or a transformation on the route may do: here, a socket without checksums.
    for fd in sockets.senders() {
        sys::set_option(fd, sys::SocketOption::NoCheck, 1).unwrap();
    }
    let mut sender = Sender::new(&sockets);
    let here = [to(sockets.local())];
    let stream = Stream::new(4500, 1000);
    (0..3).for_each(|i| sender.push_plain(&here, 1, &frame(90, i)));
    stream.push(&mut sender, &here, 1);
    let outcomes = sender.flush();
    let counts: Vec<_> =
        outcomes.iter().map(|sent| (sent.units, sent.frames, sent.result)).collect();
    assert_eq!(counts, [(3, 3, Ok(())), (1, 5, Ok(()))]);
    assert_eq!(sockets.offloads().revoked(), [local(19)]);
    let messages = receive_all(&sockets, 0);
    let expected = (0..3).map(|i| frame(90, i)).chain(stream.segments);
    let expected: Vec<_> = expected.map(|bytes| encapsulated(&bytes)).collect();
    assert!(messages.into_iter().map(|message| message.0).collect::<Vec<_>>() == expected);
    // Where nothing goes at all it is not the offload's fault.
    let denied = to("255.255.255.255:4789".parse().unwrap());
    Stream::new(4500, 1000).push(&mut sender, &[denied], 1);
    assert!(sender.flush().iter().all(|outcome| outcome.result.is_err()));
    assert_eq!(sockets.offloads().revoked(), [local(19)]);
}
