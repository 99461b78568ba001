import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The build lands where Go embeds it. Names hold a hash of the content, so that browsers may keep them for ever; the same
// sources and lock file give the same bytes (a test compares).
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../internal/monitor/console/dist",
    emptyOutDir: true,
    target: "es2023",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 700,
    reportCompressedSize: false,
  },
  server: { proxy: { "/api": { target: process.env.MONITOR ?? "http://127.0.0.1:4040", ws: true } } },
});
