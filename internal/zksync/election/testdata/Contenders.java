import java.lang.reflect.Field;
import java.util.Map;
import java.util.Scanner;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.retry.ExponentialBackoffRetry;

/** Contenders of an election by an unmodified Curator: "open NAME SERVERS" and "close NAME" on stdin. Two leaders at once are told, with their nodes. */
public class Contenders {
    static final Map<String, LeaderLatch> latches = new ConcurrentHashMap<>();
    static final Map<String, CuratorFramework> clients = new ConcurrentHashMap<>();

    /** The node by which a contender leads or waits; the latch does not tell it. */
    static String node(String name) {
        try {
            Field f = LeaderLatch.class.getDeclaredField("ourPath");
            f.setAccessible(true);
            return String.valueOf(((AtomicReference<?>) f.get(latches.get(name))).get());
        } catch (ReflectiveOperationException | RuntimeException e) {
            return "unknown:" + e.getClass().getName();
        }
    }

    public static void main(String[] args) throws Exception {
        String path = args[0];
        Thread watch = new Thread(() -> {
            String last = "";
            while (true) {
                String now = "";
                for (Map.Entry<String, LeaderLatch> a : latches.entrySet()) {
                    if (!a.getValue().hasLeadership()) {
                        continue;
                    }
                    now = a.getKey();
                    for (Map.Entry<String, LeaderLatch> b : latches.entrySet()) {
                        // Both: b led while a did before and after.
                        long at = System.currentTimeMillis();
                        if (b.getValue() != a.getValue() && b.getValue().hasLeadership() && a.getValue().hasLeadership()) {
                            System.out.println("TWO " + at + " " + a.getKey() + " " + node(a.getKey()) + " " + b.getKey() + " " + node(b.getKey()));
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
