//! Serving HTTP to whoever comes, so that nobody can take all there is: connections have a bound, and
//! each has to say in time what it asks for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// Between two looks for connections when the system has given none, for want of files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What becomes of who comes when there are as many as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Waits until another one ends; the system keeps it.
    Waits,
    /// Gets the place of the oldest that has not said yet what it asks for, and is closed if each has.
    Pushes,
}

/// What connections may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// So many at once.
    pub connections: usize,
    /// What becomes of those beyond.
    pub full: Full,
    /// One may be used for several requests. Else each ends with its answer, and none keeps its place
    /// for nothing.
    pub keep_alive: bool,
    /// How long one may take to say what it asks for, and stay open without asking.
    pub headers_within: Duration,
    /// How long what was sent may stay unread before its connection is closed.
    pub read_within: Duration,
    /// How long answers that are under way may take at the end.
    pub grace: Duration,
}

/// Serves until `stop`, which may itself end what would go on for ever, and lets what is under way come
/// to its end. `closed` is told of each connection that had to go since there were too many.
pub async fn serve(
    limits: Limits,
    listener: TcpListener,
    routes: Router,
    closed: impl Fn(),
    stop: impl Future<Output = ()>,
) {
    let waiting = Arc::new(Semaphore::new(match limits.full {
        Full::Waits => limits.connections,
        Full::Pushes => Semaphore::MAX_PERMITS,
    }));
    let mut crowd = Crowd::default();
    let under_way = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .keep_alive(limits.keep_alive)
        .header_read_timeout(limits.headers_within);
    tokio::pin!(stop);
    loop {
        let accepted = async {
            // It is never closed.
            let place = Arc::clone(&waiting).acquire_owned().await.ok();
            (accept(&listener).await, place)
        };
        let (stream, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stop => break,
        };
        if limits.full == Full::Pushes && !crowd.makes_room(limits.connections, &closed) {
            continue;
        }
        // Where the system has no such limit, a reader that has gone to sleep keeps its place.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(
            &stream,
            u32::try_from(limits.read_within.as_millis()).unwrap_or(u32::MAX),
        );
        let has_asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&has_asked);
        let inner = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |request| {
            asks.store(true, Ordering::Relaxed);
            inner.call(request)
        });
        let connection = under_way.watch(http.serve_connection(TokioIo::new(stream), service));
        let task = tokio::spawn(async move {
            // Whose connection breaks asks again; nobody else needs to know.
            let _ = connection.await;
            drop(place);
        });
        crowd.0.push((has_asked, task.abort_handle()));
    }
    drop(listener);
    // Who is cut off repeats it, which is safe.
    let _ = timeout(limits.grace, under_way.shutdown()).await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // It has gone away again, or there are too many files: later there may be fewer.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// The connections, the oldest first.
#[derive(Default)]
struct Crowd(Vec<(Arc<AtomicBool>, AbortHandle)>);

impl Crowd {
    /// Whether there is a place for one more.
    fn makes_room(&mut self, most: usize, closed: &impl Fn()) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() < most {
            return true;
        }
        closed();
        let silent =
            |(has_asked, _): &(Arc<AtomicBool>, AbortHandle)| !has_asked.load(Ordering::Relaxed);
        match self.0.iter().position(silent) {
            Some(oldest) => {
                self.0.remove(oldest).1.abort();
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::atomic::AtomicUsize};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    /// More than the system keeps for a reader.
    const MUCH: usize = 64 << 20;

    const LIMITS: Limits = Limits {
        connections: 2,
        full: Full::Waits,
        keep_alive: true,
        headers_within: SOON,
        read_within: SOON,
        grace: Duration::ZERO,
    };

    struct Served {
        addr: SocketAddr,
        closed: Arc<AtomicUsize>,
        /// Ends what `/slow` waits for.
        goes_on: Arc<Notify>,
        task: JoinHandle<()>,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    async fn served(limits: Limits) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let goes_on = Arc::new(Notify::new());
        let waits = Arc::clone(&goes_on);
        let routes = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/much", get(|| async { vec![b'a'; MUCH] }))
            .route(
                "/slow",
                get(|| async move {
                    waits.notified().await;
                    "at last"
                }),
            );
        let closed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&closed);
        let task = tokio::spawn(async move {
            let count = || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            serve(limits, listener, routes, count, std::future::pending()).await;
        });
        Served {
            addr,
            closed,
            goes_on,
            task,
        }
    }

    async fn saying(addr: SocketAddr, words: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        stream
    }

    async fn asking(addr: SocketAddr, path: &str) -> TcpStream {
        saying(
            addr,
            &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        )
        .await
    }

    async fn has_answer(stream: &mut TcpStream, within: Duration) -> bool {
        let mut byte = [0; 1];
        matches!(timeout(within, stream.read(&mut byte)).await, Ok(Ok(1)))
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut said = Vec::new();
        timeout(SOON, stream.read_to_end(&mut said)).await.is_ok()
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one() {
        let served = served(LIMITS).await;
        let mut first = asking(served.addr, "/").await;
        let mut second = asking(served.addr, "/").await;
        assert!(has_answer(&mut first, SOON).await && has_answer(&mut second, SOON).await);
        let mut third = asking(served.addr, "/").await;
        assert!(!has_answer(&mut third, Duration::from_millis(300)).await);
        drop(first);
        assert!(has_answer(&mut third, SOON).await);
    }

    #[tokio::test]
    async fn who_says_nothing_gives_the_place_up() {
        let served = served(Limits {
            connections: 1,
            headers_within: Duration::from_millis(200),
            ..LIMITS
        })
        .await;
        let mut silent = saying(served.addr, "").await;
        let mut half = saying(served.addr, "GET / HT").await;
        let mut asking = asking(served.addr, "/").await;
        assert!(has_answer(&mut asking, SOON).await);
        assert!(is_closed(&mut silent).await && is_closed(&mut half).await);
    }

    #[tokio::test]
    async fn who_does_not_read_gives_the_place_up() {
        let served = served(Limits {
            connections: 1,
            read_within: Duration::from_millis(500),
            ..LIMITS
        })
        .await;
        let asleep = asking(served.addr, "/much").await;
        let mut asking = asking(served.addr, "/").await;
        assert!(has_answer(&mut asking, SOON).await);
        drop(asleep);
    }

    const PUSHES: Limits = Limits {
        full: Full::Pushes,
        keep_alive: false,
        ..LIMITS
    };

    #[tokio::test]
    async fn who_asks_is_served_however_many_are_half_way_and_those_are_counted() {
        let served = served(PUSHES).await;
        let mut halves = Vec::new();
        for _ in 0..300 {
            halves.push(saying(served.addr, "GET / HTTP/1.1\r\nHost: ").await);
        }
        let mut asking = asking(served.addr, "/").await;
        assert!(has_answer(&mut asking, SOON).await);
        for half in &mut halves[..298] {
            assert!(is_closed(half).await);
        }
        assert!(served.closed.load(Ordering::Relaxed) >= 299);
    }

    #[tokio::test]
    async fn who_has_asked_is_answered_and_nobody_gets_the_place() {
        let served = served(PUSHES).await;
        let mut slow = [
            asking(served.addr, "/slow").await,
            asking(served.addr, "/slow").await,
        ];
        for one in &mut slow {
            // Read by now, since nothing that comes later gets a place.
            assert!(!has_answer(one, Duration::from_millis(100)).await);
        }
        let mut beyond = asking(served.addr, "/").await;
        assert!(is_closed(&mut beyond).await);
        assert_eq!(served.closed.load(Ordering::Relaxed), 1);
        served.goes_on.notify_waiters();
        for one in &mut slow {
            assert!(has_answer(one, SOON).await);
            assert!(is_closed(one).await, "each ends with its answer");
        }
        let mut asking = asking(served.addr, "/").await;
        assert!(has_answer(&mut asking, SOON).await);
    }
}
