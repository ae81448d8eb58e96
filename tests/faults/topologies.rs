//! The topologies themselves: they fail over and move slots as they are told, and lose nothing by it.

use crate::support::{
    cluster::{Cluster, ask_cluster},
    eventually,
    redis::ask,
    sentinel::{Sentinels, primary_port},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_choose_another_primary() {
    let Some(mut sentinels) = Sentinels::start() else { return };
    assert_eq!(sentinels.primary(), Some(0));
    let port = primary_port(&sentinels.ports()).unwrap();
    assert_eq!(port, sentinels.server(0).port());
    let _: String = ask(port, &["SET", "a", "1"]).unwrap();
    assert!(ask::<u32>(port, &["WAIT", "2", "1000"]).is_ok());
    sentinels.server_mut(0).kill();
    let second = sentinels.fails_over(0).await;
    assert!(second != 0 && sentinels.holds(second, "a"));
    sentinels.server_mut(0).restart();
    sentinels.is_demoted(0).await;
    sentinels.fail_over();
    let third = sentinels.fails_over(second).await;
    assert!(third != second && sentinels.holds(third, "a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_slots_and_fails_over() {
    let Some(mut cluster) = Cluster::start() else { return };
    let _: String = ask_cluster(&cluster.ports(), &["SET", "a", "1"]).unwrap();
    let slot = cluster.slot("a");
    let first = cluster.primary_of(slot);
    let second = (first + 1) % 3;
    cluster.move_slot(slot, second);
    assert_eq!(cluster.primary_of(slot), second);
    assert!(cluster.holds("a"));
    assert!(ask::<bool>(cluster.server(second).port(), &["EXISTS", "a"]).unwrap(), "it moved");
    let third = cluster.add_primary();
    cluster.move_slot(slot, third);
    assert!(ask::<bool>(cluster.server(third).port(), &["EXISTS", "a"]).unwrap(), "it moved to the new primary");
    cluster.move_slot(slot, second);
    eventually("the replica has it", async || ask::<u32>(cluster.server(second + 3).port(), &["DBSIZE"]).unwrap() == 1)
        .await;
    cluster.server_mut(second).kill();
    cluster.fails_over(second).await;
    assert_ne!(cluster.primary_of(slot), second);
    assert!(cluster.holds("a"));
    cluster.server_mut(second).restart();
    cluster.is_back(second).await;
    assert!(cluster.holds("a"));
}
