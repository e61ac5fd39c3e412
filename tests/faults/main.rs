//! The fault suite with real processes: `controller-manager` is killed, the lines between it and the clusters are pulled out, and the clusters
//! themselves fail, on real clusters and on embedded ones. After each of the scenarios the members are as the host says, nobody writes any
//! more, nothing is lost, and nothing is gone or changed that was not asked to be (`spec/kubefed.md §5, §6`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public parts")]

mod api;
mod cluster;
mod history;
#[path = "../../crates/embedded/tests/support/hooks.rs"]
#[allow(dead_code, reason = "shared with the tests of the embedded server")]
mod hooks;
mod leader;
mod managers;
mod partition;
mod restarts;
mod skew;
mod slow;
#[path = "../support/mod.rs"]
mod support;
mod wishes;
mod world;

use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_embedded_clusters() {
    all_scenarios(World::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_real_clusters() {
    if let Some(world) = World::real().await {
        all_scenarios(world).await;
    }
}

async fn all_scenarios(mut world: World) {
    let kind = if world.host.is_real() { "real" } else { "embedded" };
    macro_rules! scenarios {
        ($($module:ident::$name:ident),* $(,)?) => {$(
            let began = std::time::Instant::now();
            eprintln!("  {kind}: {} …", stringify!($name));
            $module::$name(&mut world).await;
            world.settle().await;
            eprintln!("  {kind}: {}: ok in {:.1} s", stringify!($name), began.elapsed().as_secs_f64());
        )*};
    }
    scenarios![
        leader::killed_at_any_moment_it_is_succeeded,
        leader::frozen_and_thawed_it_gives_way_to_its_successor,
        partition::a_member_cut_off_is_left_as_it_is_and_catches_up,
        partition::a_line_that_comes_and_goes_loses_nothing,
        history::drift_that_no_watch_tells_of_is_corrected,
        api::a_type_that_is_deleted_and_made_anew_concerns_its_member_alone,
        api::credentials_that_are_rotated_lose_nothing,
        api::a_refusal_is_told_and_concerns_its_member_alone,
        restarts::while_the_host_is_away_the_members_are_left_as_they_are,
        restarts::a_member_that_restarts_in_a_roll_out_gets_everything,
        slow::a_slow_member_delays_nobody_and_gets_everything,
        skew::clocks_that_are_wrong_change_nothing,
    ];
}
