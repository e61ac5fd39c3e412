//! A cluster is away, or slow.

use std::time::Duration;

use crate::{BOTH, change, copy, create, fed, identity, is_right, says, shop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cut_off_during_everything_is_as_it_should_be_when_it_is_back() {
    let mut world = shop(2).await;
    let names = ["updated", "shrunk", "grown", "deleted", "untouched"];
    for name in names {
        let clusters: &[&str] = if name == "grown" { &["m1"] } else { &BOTH };
        create(&world, name, "1", clusters).await;
        is_right(&world, name, Some(("1", clusters))).await;
    }
    world.quiet().await;
    let (m1, m2) = (world.member("m1"), world.member("m2"));
    let mut before = Vec::new();
    for name in ["updated", "shrunk", "deleted", "untouched"] {
        before.push((name, identity(m2, &copy(name)).await));
    }
    let untouched = identity(m1, &copy("untouched")).await;
    m2.door.cut();
    create(&world, "created", "2", &BOTH).await;
    change(&world, "updated", "2", &BOTH).await;
    change(&world, "shrunk", "2", &["m1"]).await;
    change(&world, "grown", "2", &BOTH).await;
    world.host.delete(&fed("deleted")).await;
    for name in ["created", "updated", "shrunk", "grown"] {
        m1.until(&copy(name), |copy| copy["data"]["key"] == "2").await;
    }
    m1.until_gone(&copy("deleted")).await;
    world.ready("m2", false).await;
    for name in ["created", "updated", "shrunk", "grown", "untouched", "deleted"] {
        says(&world, name, "m2", "ClusterNotReady").await;
    }
    for (name, before) in &before {
        assert_eq!(identity(m2, &copy(name)).await, *before, "{name}");
    }
    m2.door.mend();
    for name in ["created", "updated", "grown"] {
        is_right(&world, name, Some(("2", &BOTH))).await;
    }
    is_right(&world, "shrunk", Some(("2", &["m1"]))).await;
    is_right(&world, "deleted", None).await;
    is_right(&world, "untouched", Some(("1", &BOTH))).await;
    world.quiet().await;
    assert_eq!(identity(m1, &copy("untouched")).await, untouched);
    assert_eq!(identity(m2, &copy("untouched")).await, before[3].1);
    assert_eq!(identity(m2, &copy("updated")).await.0, before[0].1.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_host_is_away_the_members_are_left_as_they_are() {
    let mut world = shop(2).await;
    for name in ["updated", "shrunk", "deleted", "untouched"] {
        create(&world, name, "1", &BOTH).await;
        is_right(&world, name, Some(("1", &BOTH))).await;
    }
    world.quiet().await;
    let m1 = world.member("m1");
    let untouched = identity(m1, &copy("untouched")).await;
    // Once while it waits, once while it comes up: of a host that cannot be read nothing follows.
    for is_started_anew in [false, true] {
        world.quiet().await;
        world.host.door.cut();
        if is_started_anew {
            world.stop().await;
            world.run();
        }
        let value = if is_started_anew { "3" } else { "2" };
        create(&world, &format!("created{value}"), value, &BOTH).await;
        change(&world, "updated", value, &BOTH).await;
        change(&world, "shrunk", value, if is_started_anew { &BOTH } else { &["m1"] }).await;
        if is_started_anew {
            world.host.delete(&fed("deleted")).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let writes: Vec<_> = world.members.values().flat_map(|member| member.door.writes()).collect();
        assert_eq!(writes, [""; 0]);
        world.host.door.mend();
        is_right(&world, &format!("created{value}"), Some((value, &BOTH))).await;
        is_right(&world, "updated", Some((value, &BOTH))).await;
        is_right(&world, "shrunk", Some((value, if is_started_anew { &BOTH } else { &["m1"] }))).await;
    }
    is_right(&world, "deleted", None).await;
    world.quiet().await;
    assert_eq!(identity(world.member("m1"), &copy("untouched")).await, untouched);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_delays_nobody_and_gets_everything() {
    let mut world = shop(2).await;
    let (m1, m2) = (world.member("m1").clone(), world.member("m2").clone());
    create(&world, "conf", "1", &BOTH).await;
    is_right(&world, "conf", Some(("1", &BOTH))).await;
    // Slow in all, yet well within what makes a member unready; then so slow that it is not Ready.
    for (pause, value) in [(Duration::from_millis(1_200), "2"), (Duration::from_secs(10), "3")] {
        m1.door.slow(pause);
        for number in 0..20 {
            create(&world, &format!("conf{value}{number}"), value, &BOTH).await;
        }
        change(&world, "conf", value, &BOTH).await;
        for number in 0..20 {
            m2.until(&copy(&format!("conf{value}{number}")), |_| true).await;
        }
        m2.until(&copy("conf"), |copy| copy["data"]["key"] == value).await;
        world.ready("m1", pause < Duration::from_secs(2)).await;
        if value == "3" {
            // A start waits for it no more than the others do.
            world.stop().await;
            world.run();
            change(&world, "conf", "4", &BOTH).await;
            m2.until(&copy("conf"), |copy| copy["data"]["key"] == "4").await;
            says(&world, "conf", "m1", "ClusterNotReady").await;
        }
    }
    m1.door.mend();
    is_right(&world, "conf", Some(("4", &BOTH))).await;
    for value in ["2", "3"] {
        for number in 0..20 {
            is_right(&world, &format!("conf{value}{number}"), Some((value, &BOTH))).await;
        }
    }
    world.quiet().await;
    world.stop().await;
}
