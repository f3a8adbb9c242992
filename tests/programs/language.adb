--  The heap, a task, an exception.
with Ada.Command_Line;
with Ada.Text_IO;

procedure Language is
   type Numbers is array (Positive range <>) of Integer;
   type Pointer is access Numbers;

   task type Adder is
      entry Add (N : Pointer; Sum : out Integer);
   end Adder;

   task body Adder is
   begin
      accept Add (N : Pointer; Sum : out Integer) do
         Sum := 0;
         for X of N.all loop
            Sum := Sum + X;
         end loop;
      end Add;
   end Adder;

   A   : Adder;
   N   : constant Pointer := new Numbers'(1 .. 10_000 => 7);
   Sum : Integer;
begin
   A.Add (N, Sum);
   N (10_001) := 1;
exception
   when Constraint_Error =>
      Ada.Text_IO.Put_Line ("out of range after" & Integer'Image (Sum));
      Ada.Command_Line.Set_Exit_Status (5);
end Language;
