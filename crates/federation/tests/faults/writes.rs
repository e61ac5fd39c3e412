//! The control plane ends at a write, or does not hear what became of it.

use std::sync::Arc;

use crate::support::{Fate, Fuse, World};
use crate::{BOTH, change, copy, create, fed, identity, impatient, is_right, shop, until_nothing_is_owed};

fn set(world: &World, fuse: Option<&Arc<Fuse>>) {
    world.members.values().chain([&world.host]).for_each(|cluster| cluster.door.set(fuse.cloned()));
}

/// Waits for what is to be; if the fuse that is set blows meanwhile, or did before, brings the control plane back and waits again.
async fn survive(world: &mut World, set_fuse: &mut Option<Arc<Fuse>>, wish: impl AsyncFn(&World)) {
    if let Some(fuse) = set_fuse.as_ref() {
        tokio::select! {
            () = wish(world) => {}
            () = fuse.blown() => {}
        }
        if fuse.is_blown() {
            if fuse.kills() {
                world.stop().await;
                set(world, None);
                world.run();
            }
            *set_fuse = None;
        }
    }
    wish(world).await;
}

/// What a user does to one object, one after the other, with something that happens at the n-th write it causes; whether it did happen.
async fn live_through(world: &mut World, number: usize, fate: Fate) -> bool {
    let name = format!("conf{number}");
    let mut fuse = Some(Fuse::after(number, fate));
    set(world, fuse.as_ref());
    let wishes: [Option<(&str, &[&str])>; 5] =
        [Some(("1", &BOTH)), Some(("2", &BOTH)), Some(("2", &["m1"])), Some(("3", &["m2"])), None];
    for (step, wish) in wishes.into_iter().enumerate() {
        match wish {
            Some((value, clusters)) if step == 0 => create(world, &name, value, clusters).await,
            Some((value, clusters)) => change(world, &name, value, clusters).await,
            None => world.host.delete(&fed(&name)).await,
        }
        survive(world, &mut fuse, async |world| is_right(world, &name, wish).await).await;
    }
    set(world, None);
    fuse.is_none()
}

/// At each write in turn, until there is none left.
async fn live_through_all(fate: Fate) {
    let mut world = shop(2).await;
    create(&world, "other", "1", &BOTH).await;
    is_right(&world, "other", Some(("1", &BOTH))).await;
    world.quiet().await;
    let mut others = Vec::new();
    for member in world.members.values() {
        others.push(identity(member, &copy("other")).await);
    }
    let mut number = 0;
    while live_through(&mut world, number, fate).await {
        number += 1;
        assert!(number < 60, "it writes without end");
    }
    // The finalizer, two copies, their versions (made, and told) and the status are the least for the first of the wishes alone.
    assert!(number > 12, "only {number} writes were seen");
    world.quiet().await;
    for (member, other) in world.members.values().zip(others) {
        assert_eq!(identity(member, &copy("other")).await, other);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_any_write_it_goes_on_where_it_was() {
    live_through_all(Fate::Dies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_any_write_it_goes_on_where_it_was() {
    live_through_all(Fate::DiesBefore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_any_write_is_needed() {
    live_through_all(Fate::HearsNothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_of_a_debt_it_is_settled_all_the_same() {
    let mut world = impatient(2).await;
    for number in 0.. {
        let name = format!("conf{number}");
        create(&world, &name, "1", &BOTH).await;
        is_right(&world, &name, Some(("1", &BOTH))).await;
        let mut fuse = Some(Fuse::after(number, Fate::Dies));
        set(&world, fuse.as_ref());
        world.member("m2").door.cut();
        world.host.delete(&fed(&name)).await;
        let gone = async |world: &World| {
            world.host.until_gone(&fed(&name)).await;
            world.member("m1").until_gone(&copy(&name)).await;
        };
        survive(&mut world, &mut fuse, gone).await;
        assert!(world.member("m2").get(&copy(&name)).await.is_some());
        world.member("m2").door.mend();
        let settled = async |world: &World| {
            world.member("m2").until_gone(&copy(&name)).await;
            until_nothing_is_owed(world).await;
        };
        survive(&mut world, &mut fuse, settled).await;
        set(&world, None);
        world.ready("m2", true).await;
        if fuse.is_some() {
            assert!(number > 4, "only {number} writes were seen");
            break;
        }
    }
    world.quiet().await;
    world.stop().await;
}
