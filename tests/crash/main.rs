//! Spike.
use std::time::{Duration, Instant};
#[test]
fn spike() {
    for _ in 0..3 {
        let t = Instant::now();
        let rt =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        println!("rt {:?}", t.elapsed());
        let (tx, rx) = std::sync::mpsc::channel::<()>();
        rt.spawn_blocking(move || rx.recv());
        rt.block_on(async {
            let t = Instant::now();
            let p = graphtoken::exchange::Provider::new(0.0).unwrap();
            println!("provider {:?}", t.elapsed());
            let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            l.set_nonblocking(true).unwrap();
            let a = l.local_addr().unwrap();
            let l = tokio::net::TcpListener::from_std(l).unwrap();
            let app = axum::Router::new()
                .route("/x", axum::routing::post(|| async { ([("connection", "close")], "hello") }));
            tokio::spawn(async move { axum::serve(l, app).await });
            let k = tokio::time::Instant::now();
            let req = graphtoken::grant::refresh_token::request(
                "c",
                &"t".into(),
                &[],
                graphtoken::grant::Proof::Public,
            );
            for _ in 0..3 {
                let t = Instant::now();
                let r = p.post(&format!("http://{a}/x"), &req, "id", Duration::from_secs(15)).await;
                println!("post {:?} {:?} virtual {:?}", t.elapsed(), r.is_ok(), k.elapsed());
            }
            tokio::time::advance(Duration::from_secs(3600)).await;
            println!("virtual {:?}", k.elapsed());
        });
        drop(tx);
        let t = Instant::now();
        drop(rt);
        println!("drop {:?}", t.elapsed());
    }
}
