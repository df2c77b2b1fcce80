"""What every method shares. Imports nothing else of resprout; read it in this order.

masks -> select -> kinds -> granularity -> probe -> hold -> budget -> task -> store -> run -> steps.
"""
