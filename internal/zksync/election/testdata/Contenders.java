import java.util.Map;
import java.util.Scanner;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.retry.ExponentialBackoffRetry;

/** Contenders of an election by an unmodified Curator: "open NAME SERVERS" and "close NAME" on stdin. Two leaders at once are told, with their sessions. */
public class Contenders {
    static final Map<String, LeaderLatch> latches = new ConcurrentHashMap<>();
    static final Map<String, CuratorFramework> clients = new ConcurrentHashMap<>();
    static final Map<String, Long> sessions = new ConcurrentHashMap<>(); // of who leads, when it was first seen to

    static void seen(String name) {
        CuratorFramework c = clients.get(name);
        try {
            if (c != null && !sessions.containsKey(name)) {
                sessions.put(name, c.getZookeeperClient().getZooKeeper().getSessionId());
            }
        } catch (Exception e) {
            // Not connected: asked again.
        }
    }

    static String session(String name) {
        return Long.toHexString(sessions.getOrDefault(name, 0L));
    }

    public static void main(String[] args) throws Exception {
        String path = args[0];
        Thread watch = new Thread(() -> {
            String last = "";
            while (true) {
                String now = "";
                for (Map.Entry<String, LeaderLatch> a : latches.entrySet()) {
                    if (!a.getValue().hasLeadership()) {
                        sessions.remove(a.getKey());
                        continue;
                    }
                    now = a.getKey();
                    seen(now);
                    for (Map.Entry<String, LeaderLatch> b : latches.entrySet()) {
                        // Both: b led while a did before and after.
                        long at = System.currentTimeMillis();
                        if (b.getValue() != a.getValue() && b.getValue().hasLeadership() && a.getValue().hasLeadership()) {
                            seen(b.getKey());
                            System.out.println("TWO " + at + " " + a.getKey() + " " + session(a.getKey()) + " " + b.getKey() + " " + session(b.getKey()));
                        }
                    }
                }
                if (!now.equals(last)) {
                    System.out.println("LEADER " + now);
                    last = now;
                }
                Thread.yield();
                try {
                    Thread.sleep(0, 200_000);
                } catch (InterruptedException e) {
                    return;
                }
            }
        });
        watch.setDaemon(true);
        watch.start();
        Scanner in = new Scanner(System.in);
        while (in.hasNextLine()) {
            String[] w = in.nextLine().split(" ");
            if (w[0].equals("open")) {
                CuratorFramework c = CuratorFrameworkFactory.newClient(w[2], 3000, 3000, new ExponentialBackoffRetry(50, 10));
                c.start();
                LeaderLatch l = new LeaderLatch(c, path, w[1]);
                clients.put(w[1], c);
                latches.put(w[1], l);
                l.start();
            } else if (w[0].equals("close")) {
                LeaderLatch l = latches.remove(w[1]);
                if (l != null) {
                    l.close();
                    clients.remove(w[1]).close();
                }
            }
        }
        System.exit(0);
    }
}
